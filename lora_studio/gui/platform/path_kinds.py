"""What a path given to the window is: dropped on it, or named on the command line."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.data.readers.read import is_beside
from lora_studio.data.readers.read import kind_of as data_kind_of
from lora_studio.export.imports.archive import is_archive


class PathKind(Enum):
    """What a path can be."""

    CONFIG = "config"
    RUN = "run"
    MODEL = "model"
    DATA = "data"
    ADAPTER = "adapter"


def is_model_name(text: str) -> bool:
    """Return whether a text names a model that is no path: the starter, or one of the Hub by owner and name."""
    return text == "starter" or re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", text) is not None


def kind_of(path: Path) -> PathKind:
    """Say what a path is, by its name and what lies in it.

    Raises:
        InputError: It does not exist, or is nothing the window opens.
    """
    if path.is_dir():
        return _kind_of_folder(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(f"There is no {path}.", "Check the path.")
    if suffix in (".yaml", ".yml"):
        return PathKind.CONFIG
    if suffix == ".gguf":
        return PathKind.MODEL
    if data_kind_of(path):
        return PathKind.DATA
    if is_archive(path):
        return PathKind.ADAPTER
    hint = "Give a config (.yaml), a run, model or adapter folder, a .gguf file, an adapter's .zip or rows (.jsonl, .csv, .parquet, .txt)."
    raise InputError(f"{path.name} is nothing that can be opened.", hint)


def _kind_of_folder(path: Path) -> PathKind:
    if (path / "run.yaml").is_file():
        return PathKind.RUN
    if (path / "config.json").is_file():
        return PathKind.MODEL
    if (path / "adapter_config.json").is_file():
        return PathKind.RUN if (path.parent / "run.yaml").is_file() else PathKind.ADAPTER
    if _holds_rows(path):
        return PathKind.DATA
    raise InputError(
        f"{path.name} is no run, no model and no data: it holds no run.yaml, no config.json and no file of rows.", "Choose another folder."
    )


def _holds_rows(folder: Path) -> bool:
    """Look for one file of rows; what stands beside a model or a run is no data, so those are told before."""
    return any(data_kind_of(file) and not is_beside(file.name) and file.is_file() for file in folder.rglob("*"))
