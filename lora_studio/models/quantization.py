"""Base models held in 4 or 8 bits: whether this machine can. Which of their weights are, `held_weights` says. Light.

Quantized as QLoRA does (Dettmers et al., arXiv 2305.14314): the linear layers but the output layer; embeddings, norms and the output
layer keep their dtype. The files stay as they are: the weights are quantized as they are read. Of folders that are quantized
already (`stored_quantization`) those of bitsandbytes are held as they lie there.
"""

from __future__ import annotations

from importlib.util import find_spec

from lora_studio.core.findings import Finding

NONE, NF4, INT8 = "none", "nf4", "int8"
SAID = {NONE: "", NF4: "4 bits (NF4)", INT8: "8 bits"}
INSTALL = "pip install 'bitsandbytes>=0.50,<0.51'"
FIELD = "model.quantization"
DEVICES = ("cuda", "cpu")
"""Kinds of device on which packed weights are computed with."""


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
    if device not in DEVICES:
        message = f"Quantized weights are computed with on CUDA and on the CPU, not on {device}."
        return Finding("error", "quantization_device", message, "Set quantization to none, or device to cpu.", FIELD)
    return None
