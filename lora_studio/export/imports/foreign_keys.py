"""Names of tensors as other programs and other ways of saving write them, brought to PEFT's: `base_model.model.<module>.lora_A.weight`.

Beside the weights themselves nothing tells them apart: a wrapper's name in between (`module.`, `_orig_mod.`), an adapter's name behind
`lora_A`, another or no prefix, the same module below another parent. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lora_studio.adapters.saved_adapter import PREFIX, parted, with_own_names
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.export.merge.renamed_tensors import Renamed, write_renamed
from lora_studio.inference.adapters import ADAPTER_WEIGHTS
from lora_studio.models.safetensors_header import read_header

FIELD = "path"
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_NAMED = re.compile(
    r"(?P<before>.+\.(?:lora_[AB]|lora_magnitude_vector|lora_embedding_[AB]|modules_to_save|trainable_tokens_delta))"
    r"\.(?P<adapter>(?!weight$|bias$)[^.]+)(?P<after>\.(?:weight|bias))?"
)
_FLOATS = ("F32", "F16", "BF16", "F64")


def rename_keys(adapter: Path) -> list[Finding]:
    """Write an adapter's file anew where its names are not PEFT's, and say so.

    Raises:
        InputError: It is damaged, or holds several adapters.
    """
    path = adapter / ADAPTER_WEIGHTS
    _, stored = with_own_names(path)
    own = {key: name for name, key in stored.items()}
    tensors = read_header(path).tensors
    if not any(".lora_" in name for name in tensors) or any(entry.dtype not in _FLOATS for entry in tensors.values()):
        return []  # what it is instead is said where its tensors are looked at
    names = _without_adapter({name: _unwrapped(own.get(name, name)) for name in tensors})
    return _written(path, names, "names")


def fit_keys(adapter: Path, tree: ModuleTree) -> tuple[list[Finding], dict[str, str]]:
    """Write an adapter's file anew where all of its modules are the base's, but below another parent, and say so.

    Args:
        adapter: The adapter's folder, its names PEFT's.
        tree: The base model's.

    Returns:
        What to tell, and the new names of modules by the old ones; nothing where no name changes.
    """
    path = adapter / ADAPTER_WEIGHTS
    names = list(read_header(path).tensors)
    modules = {module_of(name) for name in names}
    known = _with_parents(tree)
    unknown = [module for module in sorted(modules) if _plain(module) not in known]
    for taken, given in dict.fromkeys(pair for module in unknown for pair in _parents(module, tree)):
        renamed = {name: _moved(name, taken, given, known) for name in names}
        # names that would fall together are of more layers than the base has, not of another parent
        if len(set(renamed.values())) == len(names) and all(_plain(module_of(name)) in known for name in renamed.values()):
            moved = {module_of(old): module_of(new) for old, new in renamed.items() if old != new}
            return _written(path, renamed, "parents"), moved
    return [], {}


def module_of(name: str) -> str:
    """Name the module that a tensor of an adapter is of, as saved: one with LoRA layers, or one that is saved whole."""
    return (parted(name) or (name.removeprefix(PREFIX).rpartition(".")[0], ""))[0]


def _unwrapped(name: str) -> str:
    plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    return plain if plain.startswith(PREFIX) else f"{PREFIX}{plain.removeprefix('base_model.')}"


def _without_adapter(names: Mapping[str, str]) -> dict[str, str]:
    found = {old: (_NAMED.fullmatch(new), new) for old, new in names.items()}
    adapters = sorted({match["adapter"] for match, _ in found.values() if match})
    if len(adapters) > 1:
        raise InputError(
            f"{ADAPTER_WEIGHTS} holds {len(adapters)} adapters: {', '.join(adapters[:5])}.",
            "Save them one by one with PEFT: model.save_pretrained(folder, selected_adapters=[name]).",
            FIELD,
        )
    return {old: _bare(match["before"], match["after"] or "") if match else new for old, (match, new) in found.items()}


def _bare(before: str, after: str) -> str:
    """Put a name together without its adapter's; PEFT leaves `modules_to_save` out as well, and `weight` behind DoRA's lengths."""
    before = before.removesuffix(".modules_to_save")
    return before if before.endswith(".lora_magnitude_vector") else f"{before}{after}"


def _written(path: Path, names: Mapping[str, str], what: str) -> list[Finding]:
    changed = {old: new for old, new in names.items() if old != new}
    if not changed:
        return []
    if len(set(names.values())) != len(names):
        raise InputError(f"{path.name} holds some tensors twice, under two names.", "Save the adapter with PEFT again.", FIELD)
    beside = path.with_suffix(".renamed")
    write_renamed(path, beside, (Renamed(new, old) for old, new in names.items()))
    beside.replace(path)
    old, new = next(iter(changed.items()))
    message = f"The {what} of {len(changed):,} of its tensors were not as PEFT writes them: {old[:120]} is {new[:120]} now."
    return [Finding("note", "renamed_keys", message, "", FIELD)]


def _plain(module: str) -> str:
    return module.replace(".base_layer", "")


def _with_parents(tree: ModuleTree) -> set[str]:
    return {".".join(parts[:end]) for name in tree.by_name for parts in [name.split(".")] for end in range(1, len(parts) + 1)}


def _parents(module: str, tree: ModuleTree) -> Iterable[tuple[str, str]]:
    """Return pairs of a parent to take away and one to give in its place, by which this module would be one of the base's."""
    parts = _plain(module).split(".")
    for start in range(len(parts)):
        ending = "." + ".".join(parts[start:])
        taken = ".".join(parts[:start]) + "." if start else ""
        for name in tree.by_name:
            if f".{name}".endswith(ending):
                yield taken, name.removesuffix(ending.removeprefix("."))


def _moved(name: str, taken: str, given: str, known: set[str]) -> str:
    plain = name.removeprefix(PREFIX)
    if _plain(module_of(name)) in known or not plain.startswith(taken):
        return name
    return f"{PREFIX}{given}{plain.removeprefix(taken)}"
