"""A gated MLP's activation and product as one function: what lies between them is neither kept nor written to memory.

silu(gate) · up (Shazeer, arXiv 2002.05202) as two modules keeps the activation for the backward pass beside the gate and the up projection.
Here it is made again, a stretch of tokens at a time that stays in the processor's cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

_AT_ONCE = 1 << 18
"""Numbers of a stretch."""
_TRIED = 3
_ROUNDINGS = 16
_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_SILU_BACKWARD: Any = torch.ops.aten.silu_backward.grad_input


@contextlib.contextmanager
def lean_mlps(model: nn.Module) -> Generator[None]:
    """Let a model's MLPs gated by SiLU compute leanly for the length of a block; afterwards they are what they were."""
    found = [module for module in model.modules() if is_gated_by_silu(module)]
    for module in found:
        module.forward = partial(_forward, module)
    try:
        yield
    finally:
        for module in found:
            del module.forward


@torch.no_grad()
def is_gated_by_silu(module: nn.Module) -> bool:
    """Say whether a module is down_proj(silu(gate_proj(x)) · up_proj(x)); tried out on a few numbers."""
    if {name for name, _ in module.named_children()} != _PARTS or "forward" in vars(module):
        return False
    weight = cast("Any", module).gate_proj.weight
    if weight.is_meta or not weight.is_floating_point():
        return False
    tried = torch.randn(_TRIED, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight)
    training = module.training
    module.eval()  # draws no random numbers
    try:
        return torch.allclose(module(tried), _forward(module, tried), rtol=_ROUNDINGS * torch.finfo(weight.dtype).eps, atol=1e-6)
    finally:
        module.train(training)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Compute silu(gate) · up.

    Args:
        gate: (..., H).
        up: (..., H), of the same dtype.

    Returns:
        (..., H).
    """
    found: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return found


def _forward(module: Any, x: Tensor) -> Tensor:
    return cast("Tensor", module.down_proj(gated(module.gate_proj(x), module.up_proj(x))))


def _stretches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Go through tensors of one shape, a few of their rows at a time."""
    flat = [tensor.view(-1, tensor.shape[-1]) for tensor in tensors]
    rows = max(1, _AT_ONCE // flat[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in flat))


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        found = torch.empty_like(gate)
        for own, some_gate, some_up in _stretches(found, gate, up):
            torch.mul(silu(some_gate), some_up, out=own)
        return found

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        for own_gate, own_up, some_gate, some_up, above in _stretches(of_gate, of_up, gate, up, upstream[0].contiguous()):
            torch.mul(silu(some_gate), above, out=own_up)
            _SILU_BACKWARD(above * some_up, some_gate, grad_input=own_gate)
        return of_gate, of_up
