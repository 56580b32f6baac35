"""A LoRA layer's forward and backward pass as one function: PEFT's gradients in fewer passes over memory.

PEFT writes base(x) + scaling · B(A(x)) as modules, so autograd makes the update, its scaled copy and the sum apart, and adds up the
input's gradient from two halves. Here products are added where they are wanted, their order goes by the shapes (RunLoRA, Cherniuk et
al., arXiv 2312.03415, has the counts), and weights cast for a product are cast again for the backward pass instead of kept.

Shapes: T tokens, I and O features in and out, R the rank; x (T, I), W (O, I), A (R, I), B (O, R), s the scaling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_studio.planning.activations import keeps_a_output

FEW_TOKENS = 64
"""Of fewer tokens PEFT's modules are as quick: measured, the fixed cost of one function is then more than the passes it spares."""
_MERGE_MARGIN = 2
"""The sum of both weights is a new matrix to write: made only where it spares this many times the arithmetic it costs."""


@contextlib.contextmanager
def fused_lora_layers(model: nn.Module) -> Generator[None]:
    """Let a model's LoRA layers compute in fused passes for the length of a block; afterwards they are PEFT's own again.

    That is every LoRA layer on a frozen Linear or Conv1D without dropout, DoRA or a bias of its own. All others go PEFT's way, and so
    does a layer that is merged, switched off, has hooks inside or sees few tokens.
    """
    fused = [module for module in model.modules() if is_fused(module)]
    for layer in fused:
        layer.__class__ = _FusedLinear
    try:
        yield
    finally:
        for layer in fused:
            layer.__class__ = LoraLinear


def is_fused(layer: nn.Module) -> bool:
    """Return whether `fused_lora_layers` would take a layer."""
    if type(layer) is not LoraLinear or len(layer.active_adapters) != 1 or "forward" in vars(layer):
        return False
    name, base = layer.active_adapters[0], layer.base_layer
    if type(base) not in (nn.Linear, Conv1D) or "forward" in vars(base) or any(own.requires_grad for own in base.parameters()):
        return False
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return False
    return isinstance(layer.lora_dropout[name], nn.Identity) and type(layer.lora_A[name]) is type(layer.lora_B[name]) is nn.Linear


class _FusedLinear(LoraLinear):
    """What a LoRA layer is while `fused_lora_layers` is open."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self.active_adapters[0]
        base, half_a, half_b = cast("Any", self.base_layer), cast("Any", self.lora_A[name]), cast("Any", self.lora_B[name])
        few = x.numel() < FEW_TOKENS * x.shape[-1]
        if few or args or kwargs or self.disable_adapters or self.merged or _hooked(base) or _hooked(half_a) or _hooked(half_b):
            return super().forward(x, *args, **kwargs)
        weight = base.weight.t() if type(base) is Conv1D else base.weight
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return fused_lora_forward(x, weight, base.bias, half_a.weight, half_b.weight, self.scaling[name], dtype)


def fused_lora_forward(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """Compute x·Wᵀ + bias + scaling · x·Aᵀ·Bᵀ.

    Args:
        x: (..., I) the input.
        weight: (O, I) the base layer's weight; it and the bias take no gradient.
        bias: (O,) or None.
        a: (R, I) trained.
        b: (O, R) trained.
        scaling: The update's factor.
        dtype: Of the products. Gradients come in the dtype of what they are of.

    Returns:
        (..., O) in `dtype`.
    """
    found: Tensor = _FusedLora.apply(x, weight, bias, a, b, scaling, dtype)  # type: ignore[no-untyped-call]
    return found


def merges(tokens: int, features_in: int, features_out: int, dtype: torch.dtype) -> bool:
    """Return whether the forward pass takes x·(W + s·B·A)ᵀ: I·O·R multiplications for the update, not T·R·(I + O).

    Only in float32: in half precision the sum would round a small update away.
    """
    return dtype == torch.float32 and tokens * (features_in + features_out) > _MERGE_MARGIN * features_in * features_out


def multiplies_whole(tokens: int, features_in: int, features_out: int, rank: int) -> bool:
    """Return whether both gradients are taken from gᵀ·x (O, I): T·I·O + 2·I·O·R multiplications.

    Otherwise it is T·R·(2·I + O), x·Aᵀ among them and what the input's gradient needs anyway left out. Cheaper for large ranks on
    small layers.
    """
    whole = features_in * features_out * (tokens + 2 * rank)
    return whole < tokens * rank * (2 * features_in + features_out)


def _hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in `dtype`; one that is costs nothing, where `to` costs a microsecond."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _scaled_b(b: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """Return s·Bᵀ (R, O), in float32 with its rows in a piece: g·B takes half the time so; in half precision it makes no difference."""
    scaled = _cast(b.t() * scaling, dtype)
    return scaled.contiguous() if dtype == torch.float32 else scaled


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.scaling, ctx.x_dtype, ctx.a_dtype, ctx.b_dtype = scaling, x.dtype, a.dtype, b.dtype
        x, own_weight, own_a, own_b = _cast(x, dtype), _cast(weight, dtype), _cast(a, dtype), _scaled_b(b, scaling, dtype)
        own_bias, low = None if bias is None else _cast(bias, dtype), None
        flat = x.reshape(-1, x.shape[-1])
        if merges(flat.shape[0], weight.shape[1], weight.shape[0], dtype):
            out = nn.functional.linear(flat, torch.addmm(own_weight, own_b.t(), own_a), own_bias)
        else:
            low = nn.functional.linear(flat, own_a)
            out = nn.functional.linear(flat, own_weight, own_bias).addmm_(low, own_b)
        keeps = low is not None and ctx.needs_input_grad[4] and keeps_a_output(a.shape[0], a.shape[1])
        ctx.save_for_backward(x, weight, own_a, b if b.dtype == dtype else own_b, low if keeps else None)
        # Not a view to autograd, which would refuse what families change in place (a shared expert's output, to which others are added).
        shaped: Tensor = torch.ops.aten._unsafe_view(out, [*x.shape[:-1], weight.shape[0]])
        return shaped

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        wants_x, _, _, wants_a, wants_b, *_ = ctx.needs_input_grad
        grad, flat = upstream[0].reshape(-1, weight.shape[0]), x.reshape(-1, x.shape[-1])
        grad_x = grad_a = grad_b = None
        b = _scaled_b(b, ctx.scaling, x.dtype) if b.dtype == ctx.b_dtype else b
        grad_low = nn.functional.linear(grad, b)  # s·g·B (T, R)
        if wants_x:
            grad_x = _cast((grad @ _cast(weight, x.dtype)).addmm_(grad_low, a), ctx.x_dtype).view(x.shape)
        if low is None and wants_a and wants_b and multiplies_whole(flat.shape[0], weight.shape[1], weight.shape[0], a.shape[0]):
            of_sum = grad.t() @ flat
            grad_a, grad_b = b @ of_sum, of_sum @ a.t()
        else:
            grad_a = grad_low.t() @ flat if wants_a else None
            grad_b = ((nn.functional.linear(flat, a) if low is None else low).t() @ grad).t() if wants_b else None
        grad_a = None if grad_a is None else _cast(grad_a, ctx.a_dtype)
        grad_b = None if grad_b is None else _cast(grad_b, ctx.b_dtype) * ctx.scaling
        return grad_x, None, None, grad_a, grad_b, None, None
