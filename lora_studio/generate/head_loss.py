"""The loss of a frozen output layer, a block of positions at a time: the whole logits never exist.

A frozen layer wants no gradient of its own, so the gradient of what goes into it can be formed in the forward pass, while a block's
logits are there, and all that is kept for the backward pass is as large as the input. The idea is the fused linear cross entropy's
(Hsu et al., Liger Kernel, arXiv 2410.10989), here in plain torch.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_studio.lora.budget import FEWEST_POSITIONS, LOGITS_AT_ONCE


def frozen_head_loss(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Add up the cross entropy of a frozen output layer's logits, in float32.

    Args:
        hidden: (N, H) what goes into the layer.
        head: The layer; its weight (V, H) and bias take no gradient.
        targets: (N,) the tokens to be predicted.

    Returns:
        The sum over all N, a scalar; equal to `token_loss_sum(head(hidden), targets)` but for the order of its sums.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    own = cast("Tensor | None", head.bias)  # torch's types say that it is always there
    bias = None if own is None else own.detach().to(dtype)
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _FrozenHeadLoss.apply(hidden.to(dtype), head.weight.detach().to(dtype), bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        at_once = max(FEWEST_POSITIONS, LOGITS_AT_ONCE // weight.shape[0])
        for start in range(0, hidden.shape[0], at_once):
            block = slice(start, start + at_once)
            logits = nn.functional.linear(hidden[block], weight, bias).float()
            wanted = targets[block, None]
            largest = torch.logsumexp(logits, dim=-1, keepdim=True)
            loss += (largest - logits.gather(1, wanted)).sum()
            if gradient is not None:
                surprise = logits.sub_(largest).exp_()  # softmax, then less one at what was wanted
                surprise.scatter_add_(1, wanted, surprise.new_full(wanted.shape, -1.0))
                torch.mm(surprise.to(hidden.dtype), weight, out=gradient[block])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0]).to(gradient.dtype), None, None, None
