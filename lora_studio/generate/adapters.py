"""Where a trained adapter is: a run, one of its checkpoints, any PEFT adapter folder, or none at all for a base model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.files import sha256_of
from lora_studio.core.runs import RunFolder

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class AdapterSource:
    """A base model, and the adapter for it where there is one.

    Attributes:
        base: What the base model is called.
        revision: Its branch, tag or commit.
        adapter: Folder with the PEFT adapter; None for the base model alone.
        run: The run it comes from, where it is one.
    """

    base: str
    revision: str | None = None
    adapter: Path | None = None
    run: RunFolder | None = None


def find_adapter(source: str) -> AdapterSource:
    """Find what a person names: a run folder, a checkpoint, a PEFT adapter folder, or else a base model.

    Raises:
        InputError: A run without an adapter yet, or an adapter that does not say its base model.
    """
    path = Path(source).expanduser()
    if (path / "run.yaml").is_file():
        return _of_run(RunFolder.open(path))
    if (path / ADAPTER_CONFIG).is_file():
        run = path.resolve().parents[1] if path.resolve().parent.name == "checkpoints" else path.resolve().parent
        base, revision = base_of(path)
        return AdapterSource(base, revision, path, RunFolder(run) if (run / "run.yaml").is_file() else None)
    return AdapterSource(source)


def base_of(adapter: Path) -> tuple[str, str | None]:
    """Read an adapter's base model and revision.

    Raises:
        InputError: Its config is no JSON, or names no base model.
    """
    path = adapter / ADAPTER_CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}.", "Give a folder that PEFT saved an adapter in.") from error
    base: object = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise InputError(f"{path} names no base model.", "Write its folder or Hub id as base_model_name_or_path.")
    revision: object = config.get("revision")
    return base, revision if isinstance(revision, str) else None


def newest_whole(run: RunFolder) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Give a run's newest checkpoint that is as it was written, and the newer ones that are not, each with what is wrong."""
    broken: list[tuple[Path, str]] = []
    for folder in reversed(run.checkpoints):
        fault = fault_of(folder)
        if not fault:
            return folder, broken
        broken.append((folder, fault))
    return None, broken


def fault_of(checkpoint: Path) -> str:
    """Say what is wrong with a checkpoint's files, going by the sha256 of each in its manifest; empty when nothing is."""
    try:
        manifest: Any = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = dict(manifest["files"])
        for name, digest in files.items():
            if sha256_of(checkpoint / name) != digest:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return "" if {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= files.keys() else f"{MANIFEST} names no adapter"


def _of_run(run: RunFolder) -> AdapterSource:
    model = run.config.model
    if (run.adapter_path / ADAPTER_CONFIG).is_file():
        return AdapterSource(model.name_or_path, model.revision, run.adapter_path, run)
    newest, _broken = newest_whole(run)
    if newest is None:
        raise InputError(f"The run {run.path} has no adapter yet.", "Let it take a step and save, or resume it.")
    return AdapterSource(model.name_or_path, model.revision, newest, run)
