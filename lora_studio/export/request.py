"""What an export is asked for: refused before anything is loaded where it cannot be met. No torch here."""

from __future__ import annotations

import shutil
from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.export.destination import check_destination
from lora_studio.export.source import WEIGHTS_NAME, AdapterSource, find_source
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import inspect_model
from lora_studio.models.safetensors_header import read_header

KINDS = ("adapter", "merged")
BYTES_OF_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_request(source: str, kind: str, target: Path, dtype: str | None, *, overwrite: bool) -> AdapterSource:
    """Find the adapter, and see that it can be exported so; the base model need not be on this machine yet.

    Raises:
        InputError: Source, kind, dtype or target cannot be used.
    """
    if kind not in KINDS:
        raise InputError(f"There is no export as {kind!r}.", f"Choose one of: {', '.join(KINDS)}.", "kind")
    if dtype is not None and dtype not in BYTES_OF_DTYPE:
        raise InputError(f"Weights cannot be written as {dtype!r}.", f"Choose one of: {', '.join(BYTES_OF_DTYPE)}.", "dtype")
    if dtype is not None and kind == "adapter":
        raise InputError("An adapter is written in the dtype it was trained in.", "Leave the dtype out, or export as merged.", "dtype")
    found = find_source(source)
    check_destination(target, overwrite=overwrite, needed=needed_folders(found))
    return found


def needed_folders(source: AdapterSource, base: Path | None = None) -> list[Path]:
    """List what an export reads or belongs to, which its destination must leave alone."""
    named = Path(source.base_name).expanduser()
    return [path for path in (source.adapter, source.run_dir, named if named.exists() else None, base) if path is not None]


def check_mergeable(source: AdapterSource, base: Path) -> None:
    """See that no adapter sits on a tied weight: merged into one of its two places, it would act in both.

    A head or embedding trained whole (`modules_to_save`) is a weight of its own, so its partner may carry an adapter; whether PEFT
    tied two adapters itself (`ensure_weight_tying`) the comparison of the merge decides.

    Raises:
        InputError: One does.
    """
    if source.peft_config.get("ensure_weight_tying") or not read_facts(base).tied_embeddings:
        return
    tree = inspect_model(base)
    partner = {module.name: module.tied_to for module in tree.modules if module.tied_to}
    partner |= {held: holder for holder, held in partner.items()}
    trained_whole: list[str] = source.peft_config.get("modules_to_save") or []
    for name in sorted(adapted_modules(source.adapter) & partner.keys()):
        if not any(f".{partner[name]}".endswith(f".{whole}") for whole in trained_whole):
            reason = tree.by_name[name].reason or f"tied to {partner[name]}"
            raise InputError(f"{name} is {reason}.", "Export the adapter instead of merging it.", "kind")


def adapted_modules(adapter: Path) -> set[str]:
    """Give the names, in the base model, of the modules that an adapter's file holds A and B of."""
    prefix = "base_model.model."
    return {name.removeprefix(prefix).partition(".lora_")[0] for name in read_header(adapter / WEIGHTS_NAME).tensors if ".lora_" in name}


def written_dtype(base: Path, dtype: str | None) -> str:
    """Name the dtype of the merged weights: the one asked for, else the base's, or float32 where the base's is not one we write."""
    stored = read_facts(base).dtype
    return dtype or (stored if stored in BYTES_OF_DTYPE else "float32")


def check_space(base: Path, target: Path, dtype: str) -> None:
    """See that a merged model in `dtype` fits on the target's disk.

    Raises:
        InputError: It does not.
    """
    facts = read_facts(base)
    needed = facts.parameters * BYTES_OF_DTYPE[dtype] if facts.parameters else facts.bytes_on_disk
    parent = next(folder for folder in target.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        message = f"{parent} has {free / 1e9:.1f} GB free; the merged model needs {needed / 1e9:.1f} GB."
        raise InputError(message, "Free some space or choose another disk.", "to")
