"""What an export is asked for: refused before anything is loaded where it cannot be met. No torch here."""

from __future__ import annotations

import shutil
from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.export.destination import check_destination
from lora_studio.export.export_format import ExportFormat
from lora_studio.export.merge.into import AUTO, check_into
from lora_studio.export.source import AdapterSource, find_source

KINDS = ("adapter", "merged", "gguf", "gguf-adapter", "mlx-adapter")
PLAIN_TYPES = ("f32", "f16", "bf16", "q8_0")
K_QUANTS = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k")
OUTTYPES = (*PLAIN_TYPES, *K_QUANTS)
"""How a GGUF model's weights can be written; K-quants by `llama-quantize`."""
BYTES_OF_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_request(source: str, kind: ExportFormat, target: Path, dtype: str | None, *, overwrite: bool, into: str = AUTO) -> AdapterSource:
    """Find the adapter, and see that it can be exported so; the base model need not be on this machine yet.

    Raises:
        InputError: Source, kind, dtype, target or what is to be merged into cannot be used.
    """
    if kind not in KINDS:
        raise InputError(f"There is no export as {kind!r}.", f"Choose one of: {', '.join(KINDS)}.", "kind")
    if dtype is not None and dtype not in BYTES_OF_DTYPE:
        raise InputError(f"Weights cannot be written as {dtype!r}.", f"Choose one of: {', '.join(BYTES_OF_DTYPE)}.", "dtype")
    if dtype is not None and kind == "adapter":
        raise InputError("An adapter is written in the dtype it was trained in.", "Leave the dtype out, or export as merged.", "dtype")
    if dtype is not None and kind != "merged":
        raise InputError("A dtype is of merged models.", "Leave the dtype out; a GGUF model's type is its outtype.", "dtype")
    found = find_source(source)
    if kind in ("merged", "gguf"):
        check_into(found, into)
    elif into != AUTO:
        raise InputError(f"Nothing is merged in an export as {kind}.", "Leave --into out, or export as merged or gguf.", "into")
    check_destination(target, overwrite=overwrite, needed=needed_folders(found))
    return found


def needed_folders(source: AdapterSource, base: Path | None = None) -> list[Path]:
    """List what an export reads or belongs to, which its destination must leave alone."""
    named = Path(source.base_name).expanduser()
    return [path for path in (source.adapter, source.run_dir, named if named.exists() else None, base) if path is not None]


def check_space(target: Path, needed: int) -> None:
    """See that so many bytes fit on the target's disk.

    Raises:
        InputError: They do not.
    """
    parent = next(folder for folder in target.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        message = f"{parent} has {free / 1e9:.1f} GB free; the merged model needs {needed / 1e9:.1f} GB."
        raise InputError(message, "Free some space or choose another disk.", "to")
