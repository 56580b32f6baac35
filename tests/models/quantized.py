"""The quantized layers of a model, and the weights in them."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import dequantize_blockwise
from torch import Tensor, nn

from lora_studio.models.quantized import Frozen4bit, Frozen8bit


def held(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Frozen4bit | Frozen8bit)}


def unpacked(layer: Any) -> Tensor:
    if isinstance(layer, Frozen4bit):
        return numbers_of(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data.float() * layer.weight.SCB[:, None] / 127


def numbers_of(packed: Tensor, state: Any) -> Tensor:
    """What numbers of 4 bits stand for: a table's, each block of 64 by its scale, end to end through the weight."""
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    pairs = packed.reshape(-1).view(torch.uint8)
    values = state.code[torch.stack([pairs >> 4, pairs & 15], -1).reshape(-1).long()]
    return (values * scales.float().repeat_interleave(state.blocksize)[: values.numel()]).reshape(state.shape).to(state.dtype)
