"""Base models held in 4 or 8 bits: which of their weights, in how many bytes, and whether this machine can. Light.

Quantized as QLoRA does (Dettmers et al., arXiv 2305.14314): the linear layers but the output layer; embeddings, norms and the output
layer keep their dtype. The files stay as they are: the weights are quantized as they are read.
"""

from __future__ import annotations

from importlib.util import find_spec

from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleInfo, ModuleTree

NONE, NF4, INT8 = "none", "nf4", "int8"
SAID = {NONE: "", NF4: "4 bits (NF4)", INT8: "8 bits"}
INSTALL = "pip install 'bitsandbytes>=0.50,<0.51'"
FIELD = "model.quantization"
_BLOCK = 64
_BLOCKS_A_SCALE = 256
_DEVICES = ("cuda", "cpu")


def quantization_finding(quantization: str, device: str) -> Finding | None:
    """Say why a base cannot be held so on this machine; None where it can.

    Args:
        quantization: `model.quantization`.
        device: Kind of the device: cuda, mps or cpu.
    """
    if quantization == NONE:
        return None
    if find_spec("bitsandbytes") is None:
        message = f"Holding the base model in {SAID[quantization]} needs the package bitsandbytes, which is not installed."
        return Finding("error", "quantization_missing", message, f"Install it: {INSTALL}", FIELD)
    if device not in _DEVICES:
        message = f"Quantized weights are computed with on CUDA and on the CPU, not on {device}."
        return Finding("error", "quantization_device", message, "Set quantization to none, or device to cpu.", FIELD)
    return None


def quantized_modules(tree: ModuleTree, quantization: str) -> frozenset[str]:
    """Name the modules whose weights are held in fewer bits: linear layers, but the output layer and what is tied to it."""
    if quantization == NONE:
        return frozenset()
    return frozenset(
        module.name for module in tree.modules
        if module.class_name in ("Linear", "Conv1D") and module.name != tree.output_module and not module.tied_to)


def saved_modules_finding(quantization: str, tree: ModuleTree, saved: tuple[str, ...]) -> Finding | None:
    """Say that a module cannot be trained in full since its weight is quantized; None where none is asked to."""
    held = quantized_modules(tree, quantization)
    below = sorted(name for name in held for whole in saved if f"{name}.".startswith(f"{whole}."))
    if not below:
        return None
    message = f"{below[0]} cannot be trained in full: its weights are held in {SAID[quantization]}."
    hint = "Take it out of modules_to_save, or set quantization to none."
    return Finding("error", "saved_quantized", message, hint, "adapter.modules_to_save")


def weight_bytes(tree: ModuleTree, quantization: str, dtype_bytes: int) -> int:
    """Give the bytes of a base model's weights.

    Args:
        tree: Its modules.
        quantization: `model.quantization`.
        dtype_bytes: Bytes of a weight that is not quantized.
    """
    held = [tree.by_name[name] for name in quantized_modules(tree, quantization)]
    whole = tree.all_parameters - sum(_elements(module) for module in held)
    return whole * dtype_bytes + sum(_quantized_bytes(module, quantization) for module in held)


def _quantized_bytes(module: ModuleInfo, quantization: str) -> int:
    """Give the bytes of one weight and its scales.

    NF4: half a byte a weight, a scale of one byte for 64 weights, one in float32 for 256 scales. int8: one byte, a float32 scale a row.
    """
    elements = _elements(module)
    if quantization == INT8:
        return elements + 4 * module.out_features
    blocks = -(-elements // _BLOCK)
    return -(-elements // 2) + blocks + 4 * -(-blocks // _BLOCKS_A_SCALE)


def _elements(module: ModuleInfo) -> int:
    rows, columns = module.shape
    return rows * columns
