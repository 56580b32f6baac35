"""A gated MLP's activation and product as one function: what lies between them is neither kept nor written to memory.

silu(gate) · up (Shazeer, arXiv 2002.05202) as two modules keeps the activation for the backward pass beside the gate and the up projection.
Here it is made again, a stretch of tokens at a time that stays in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lora_studio.kernels.forwards import with_forwards
from lora_studio.planning.tiles import GATED_AT_ONCE

_TRIED = (3, 64)
_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_SILU_BACKWARD: Any = torch.ops.aten.silu_backward.grad_input


def fused_swiglus(model: nn.Module) -> AbstractContextManager[None]:
    """Let a model's MLPs gated by SiLU compute in fused passes for the length of a block; afterwards they are what they were."""
    return with_forwards({module: partial(_forward, module) for module in model.modules() if is_gated_by_silu(module)})


@torch.no_grad()
def is_gated_by_silu(module: nn.Module) -> bool:
    """Return whether a module is down_proj(silu(gate_proj(x)) · up_proj(x)), rounded as that is.

    Tried on a few numbers, with other functions for its layers.
    """
    if {name for name, _ in module.named_children()} != _PARTS or "forward" in vars(module):
        return False
    layers = SimpleNamespace(gate_proj=_turned, up_proj=torch.cos, down_proj=torch.sin, act_fn=cast("Any", module).act_fn)
    tried = torch.linspace(-4, 4, math.prod(_TRIED)).view(_TRIED)
    forward = cast("Any", type(module).forward)
    try:
        return all(torch.equal(forward(layers, some), _forward(layers, some)) for some in (tried, tried.bfloat16()))
    except Exception:  # it has more to it
        return False


def _turned(x: Tensor) -> Tensor:
    return 1 - x


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
    rows = max(1, GATED_AT_ONCE // flat[0].shape[1])
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
