"""Settings and vocabulary of a GGUF file, as llama.cpp's converter writes them, kept for the next export of the same base.

They take the converter some seconds whatever the model's size, and depend on nothing but what the key is made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from lora_studio.core.events import Phase, RunEvent
from lora_studio.core.files import write_atomically
from lora_studio.core.paths import studio_paths
from lora_studio.export.gguf.llama_cpp import Converter, convert
from lora_studio.models.stored_tensors import StoredTensors

if TYPE_CHECKING:
    from lora_studio.core.control import TaskContext

_MOST_KEPT = 8
_LARGEST_KEPT = 64 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def write_header(context: TaskContext, converter: Converter, folder: Path, target: Path, outtype: str, name: str) -> Generator[RunEvent]:
    """Write a GGUF file up to its weights: what the converter writes, or wrote the last time.

    Args:
        context: The host's.
        converter: Which.
        folder: The model's, as the converter sees it.
        target: The file.
        outtype: f32, f16 or bf16.
        name: What the file calls the model.

    Raises:
        StudioError: See `convert`.
    """
    kept = studio_paths().cache / "gguf-headers" / f"{_key(converter, folder, outtype, name)}.gguf"
    if kept.is_file():
        yield Phase(name="converting", message="Reading settings and vocabulary")
        shutil.copyfile(kept, target)
        kept.touch()
        return
    yield from convert(context, converter, folder, target, outtype, name, only_header=True)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs some seconds
        if target.stat().st_size <= _LARGEST_KEPT:
            write_atomically(kept, target.read_bytes())
            _prune(kept.parent)


def _key(converter: Converter, folder: Path, outtype: str, name: str) -> str:
    """Hash all that a header depends on: the converter, every small file of the model, names, shapes and dtypes of its tensors."""
    digest = hashlib.sha256(json.dumps([outtype, name]).encode())
    for program in converter.programs:
        digest.update(f"{program} {program.stat().st_size} {program.stat().st_mtime_ns} ".encode())
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in _WEIGHTS:
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
    for tensor, stored in sorted(StoredTensors.open(folder).by_name.items()):
        digest.update(f"{tensor} {stored.entry.dtype} {stored.entry.shape} ".encode())
    return digest.hexdigest()[:40]


def _prune(folder: Path) -> None:
    """Keep the headers used last."""
    for path in sorted(folder.glob("*.gguf"), key=lambda path: path.stat().st_mtime)[:-_MOST_KEPT]:
        path.unlink(missing_ok=True)
