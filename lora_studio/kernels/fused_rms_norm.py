"""A root mean square norm's forward and backward pass as one function: fewer passes over memory, and half as much kept in bfloat16.

Written as modules, a norm (Zhang and Sennrich, arXiv 1910.07467) makes six tensors forwards and more backwards, and keeps its input in
float32. Measured on two cores over 1,024 tokens in bfloat16, one function takes a third to a half of the time, and rounds once where
they round twice.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_studio.kernels.forwards import with_forwards

_TRIED = 3
_EPSILONS = ("variance_epsilon", "eps", "epsilon")


def fused_rms_norms(model: nn.Module) -> AbstractContextManager[None]:
    """Let a model's frozen root mean square norms compute in fused passes for the length of a block; afterwards they are what they were.

    Which modules are such norms is tried out, on a few numbers in float32.
    """
    found = {module: plus for module in model.modules() if (plus := gain_added(module)) is not None}
    return with_forwards({module: partial(_forward, module, type(module).forward, plus) for module, plus in found.items()})


@torch.no_grad()
def gain_added(module: nn.Module) -> float | None:
    """Say what a root mean square norm adds to its weight: 0 in most models, 1 in Gemma's; None for any other module."""
    own: Any = module
    epsilon = _epsilon(module)
    if [name for name, _ in module.named_parameters()] != ["weight"] or epsilon is None or "forward" in vars(module):
        return None
    weight: Tensor = own.weight
    if weight.requires_grad or weight.is_meta or weight.dim() != 1 or len(inspect.signature(type(module).forward).parameters) != 2:
        return None
    numbers = torch.Generator().manual_seed(0)
    tried = torch.randn(_TRIED, len(weight), generator=numbers).to(weight.device)
    try:
        given = type(module).forward(own, tried)
    except Exception:  # one for inputs of another shape is no such norm
        return None
    if not isinstance(given, Tensor) or given.shape != tried.shape:  # pyright: ignore[reportUnnecessaryIsInstance]
        return None
    for plus in (0.0, 1.0):
        if torch.allclose(given.float(), fused_rms_norm(tried, weight.float(), plus, epsilon), rtol=1e-5, atol=1e-6):
            return plus
    return None


def fused_rms_norm(x: Tensor, weight: Tensor, plus: float, epsilon: float) -> Tensor:
    """Compute x / √(mean(x²) + ε) · (weight + plus) over the last dimension.

    Args:
        x: (..., H).
        weight: (H,), of x's dtype; it takes no gradient.
        plus: What is added to the weight.
        epsilon: ε.

    Returns:
        (..., H) in x's dtype; computed in float32.
    """
    found: Tensor = _FusedRMSNorm.apply(x, weight, plus, epsilon)  # type: ignore[no-untyped-call]
    return found


def _epsilon(module: nn.Module) -> float | None:
    found = (getattr(module, name, None) for name in _EPSILONS)
    return next((value for value in found if isinstance(value, float)), None)


def _forward(module: Any, own: Any, plus: float, x: Tensor) -> Tensor:
    if x.dtype != module.weight.dtype or x.dtype == torch.float64:
        return cast("Tensor", own(module, x))
    return fused_rms_norm(x, module.weight, plus, cast("float", _epsilon(module)))


class _FusedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, plus: float, epsilon: float) -> Tensor:
        ctx.plus = plus
        numbers = x.to(torch.float32, copy=True)
        norm = torch.linalg.vector_norm(numbers, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return numbers.mul_(scale).mul_(weight.float() + plus).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.to(torch.float32, copy=True).mul_(scale)
        gradient = upstream[0].to(torch.float32, copy=True).mul_(weight.float() + ctx.plus)
        along = (gradient * normed).mean(-1, keepdim=True)
        return gradient.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), None, None, None
