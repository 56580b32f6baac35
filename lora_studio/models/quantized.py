"""Linear layers held in 4 or 8 bits by bitsandbytes, and computed with as a frozen layer of a base model is.

The classes of bitsandbytes hold the weights; their forward passes are not used. On a processor with AVX512-BF16 theirs of 4 bits
repacks the weights in the first evaluation and gives no gradient to what goes in from then on, so that all layers below stop
learning without a word (0.50). On any processor it takes the wrong scales for weights whose rows are no whole blocks: blocks go through
a weight from end to end, and it begins anew with each row (0.50.2). Theirs of 8 bits keeps its input for the backward pass, where a
frozen layer needs none, and rounds it to 8 bits in evaluation but not in training on a processor.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.autograd._functions import matmul_4bit
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from lora_studio.models.quantization import NF4


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return transformers' config for quantizing a model as it is loaded: NF4 with scales quantized too, or int8.

    Args:
        quantization: `model.quantization`, not none.
        dtype: Of what is not quantized, and of the weights unpacked.
    """
    if quantization == NF4:
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return BitsAndBytesConfig(load_in_8bit=True)


def freeze_layers(model: nn.Module) -> None:
    """Put into a loaded model's quantized layers the forward passes of frozen ones."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.__class__ = Frozen4bit
            _store_as_bytes(module)
        elif isinstance(module, Linear8bitLt):
            module.__class__ = Frozen8bit


def _store_as_bytes(layer: Linear4bit) -> None:
    """Take packed weights that are stored as if they were floats for what they are: no cast of the model may touch them."""
    weight: Any = layer.weight
    if weight.data.is_floating_point():
        weight.data = weight.data.view(torch.uint8).reshape(-1, 1)
        weight.quant_storage = layer.quant_storage = torch.uint8


def as_held(weight: Tensor, quantization: str) -> Tensor:
    """Return what a weight is once it was held in fewer bits, in float32: quantized as `load_model` does it, and unpacked.

    Args:
        weight: out × in, in the dtype it was read in.
        quantization: `model.quantization`, not none.
    """
    if quantization == NF4:
        packed, state = functional.quantize_4bit(weight.contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4")
        return unpacked_4bit(packed, state, weight.dtype).float()
    rows, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16).contiguous())
    return rows.float() * scales[:, None] / 127


def unpacked_4bit(packed: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """Return a weight packed in 4 bits, unpacked as one row, so that its blocks are those it was packed in.

    Args:
        packed: Its numbers.
        state: bitsandbytes' `QuantState`.
        dtype: What it is rounded to.
    """
    flat = copy.copy(state)
    flat.dtype, flat.shape = dtype, torch.Size((1, math.prod(state.shape)))
    return functional.dequantize_4bit(packed, flat).reshape(state.shape)


class Frozen4bit(Linear4bit):
    """A frozen layer in 4 bits: computes in the dtype of its input, or autocast's."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x · Wᵀ + b, the weight unpacked for the product."""
        x = _in_autocast(x)
        weight: Any = self.weight
        state = weight.quant_state
        if x.device.type != "cpu" or state.shape[-1] % state.blocksize == 0:
            return _with_bias(matmul_4bit(x, weight, quant_state=state), self.bias)
        product: Tensor = _Product4bit.apply(x, weight.data, state)  # type: ignore[no-untyped-call]
        return _with_bias(product, self.bias)


class Frozen8bit(Linear8bitLt):
    """A frozen layer in 8 bits, one scale for each row: computes in the dtype of its input, or autocast's."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x · Wᵀ + b, the weight unpacked for the product."""
        x = _in_autocast(x)
        weight: Any = self.weight
        product: Tensor = _Product8bit.apply(x, weight.data, weight.SCB)  # type: ignore[no-untyped-call]
        return _with_bias(product, self.bias)


class _Product4bit(torch.autograd.Function):
    """A product with a 4-bit weight that keeps nothing but the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, state: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.state = state
        return nn.functional.linear(x, unpacked_4bit(weight, state, x.dtype))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return upstream[0] @ unpacked_4bit(weight, ctx.state, upstream[0].dtype), None, None


class _Product8bit(torch.autograd.Function):
    """A product with an 8-bit weight that keeps nothing but the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scales)
        return nn.functional.linear(x, _unpacked(weight, scales, x.dtype))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        weight, scales = ctx.saved_tensors
        return upstream[0] @ _unpacked(weight, scales, upstream[0].dtype), None, None


def _unpacked(weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return W from its numbers from −127 to 127 and the largest of each row."""
    return weight.to(dtype) * (scales / 127).to(dtype)[:, None]


def _in_autocast(x: Tensor) -> Tensor:
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _with_bias(product: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias, which may train: bitsandbytes sums its gradient over the rows of a batch alone."""
    return product if bias is None else product + bias.to(product.dtype)
