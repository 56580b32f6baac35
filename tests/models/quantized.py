"""The quantized layers of a model, and the weights in them."""

from __future__ import annotations

from typing import Any

from bitsandbytes.functional import dequantize_4bit
from torch import Tensor, nn

from lora_studio.models.quantized import Frozen4bit, Frozen8bit


def held(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Frozen4bit | Frozen8bit)}


def unpacked(layer: Any) -> Tensor:
    if isinstance(layer, Frozen4bit):
        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data.float() * layer.weight.SCB[:, None] / 127
