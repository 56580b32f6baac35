"""Which weights of a base model are held in fewer bits, and in how many bytes. Light."""

from __future__ import annotations

from collections.abc import Mapping

from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.models.quantization import INT8, NF4, NONE, SAID
from lora_studio.models.stored_quantization import StoredQuantization

_BLOCK = 64
_BLOCKS_A_SCALE = 256


def quantized_modules(tree: ModuleTree, quantization: str, stored: StoredQuantization | None = None) -> frozenset[str]:
    """Name the modules whose weights are held in fewer bits: linear layers, but the output layer and what is tied to it.

    Args:
        tree: All modules.
        quantization: `model.quantization`.
        stored: How the folder is quantized already; of one that stays packed, the modules that are so there.
    """
    return frozenset(_held(tree, quantization, stored))


def saved_modules_finding(
    quantization: str, tree: ModuleTree, saved: tuple[str, ...], stored: StoredQuantization | None = None
) -> Finding | None:
    """Say that a module cannot be trained in full since its weight is quantized; None where none is asked to."""
    held = quantized_modules(tree, quantization, stored)
    below = sorted(name for name in held for whole in saved if f"{name}.".startswith(f"{whole}."))
    if not below:
        return None
    said = SAID[quantization] or (stored.said if stored else "")
    message = f"{below[0]} cannot be trained in full: its weights are held in {said}."
    otherwise = "set quantization to none" if quantization != NONE else "choose the model in full precision"
    return Finding("error", "saved_quantized", message, f"Take it out of modules_to_save, or {otherwise}.", "adapter.modules_to_save")


def weight_bytes(tree: ModuleTree, quantization: str, dtype_bytes: int, stored: StoredQuantization | None = None) -> int:
    """Return the bytes of a base model's weights as they are held.

    Args:
        tree: Its modules.
        quantization: `model.quantization`.
        dtype_bytes: Bytes of a weight that is not quantized.
        stored: How the folder is quantized already.
    """
    held = _held(tree, quantization, stored)
    whole = tree.all_parameters - sum(_elements(tree.by_name[name]) for name in held)
    return whole * dtype_bytes + sum(held.values())


def _held(tree: ModuleTree, quantization: str, stored: StoredQuantization | None) -> dict[str, int]:
    """Return the bytes of each weight that is held in fewer bits, by its module."""
    if quantization == NONE and (stored is None or not stored.stays_packed):
        return {}
    linear = [
        module
        for module in tree.modules
        if module.class_name in ("Linear", "Conv1D") and module.name != tree.output_module and not module.tied_to
    ]
    if quantization != NONE or stored is None:
        return {module.name: _quantized_bytes(module, quantization) for module in linear}
    if stored.packed:
        return _as_stored(tree, stored.packed)
    kind, doubly = INT8 if stored.layout == "bnb8" else NF4, bool(stored.settings.get("bnb_4bit_use_double_quant"))
    spared: tuple[str, ...] = tuple(stored.settings.get("llm_int8_skip_modules") or ())
    return {
        module.name: _quantized_bytes(module, kind, doubly)
        for module in linear
        if not any(f".{name}." in f".{module.name}." for name in spared)
    }


def _as_stored(tree: ModuleTree, packed: Mapping[str, int]) -> dict[str, int]:
    """Find the modules that weights on disk are of: by their names, or, where a family is called otherwise there, by their ends.

    Experts that are one parameter in memory are no module of their own, and are unpacked.
    """
    linear = {module.name for module in tree.modules if module.class_name in ("Linear", "Conv1D")}
    by_end: dict[str, list[str]] = {}
    for name in linear:
        by_end.setdefault(_end(name), []).append(name)
    found: dict[str, int] = {}
    for name, size in packed.items():
        alike = [name] if name in linear else by_end.get(_end(name), [])
        if len(alike) == 1:
            found[alike[0]] = size
    return found


def _end(name: str) -> str:
    """Return a name from its layer's number on."""
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[first:])


def _quantized_bytes(module: ModuleInfo, quantization: str, doubly: bool = True) -> int:
    """Return the bytes of one weight and its scales.

    NF4: half a byte a weight, a scale of one byte for 64 weights, one in float32 for 256 scales; not `doubly` quantized, a scale of four
    bytes for 64 weights. int8: one byte, a float32 scale a row.
    """
    elements = _elements(module)
    if quantization == INT8:
        return elements + 4 * module.out_features
    blocks = -(-elements // _BLOCK)
    return -(-elements // 2) + (blocks + 4 * -(-blocks // _BLOCKS_A_SCALE) if doubly else 4 * blocks)


def _elements(module: ModuleInfo) -> int:
    rows, columns = module.shape
    return rows * columns
