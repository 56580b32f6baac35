"""The loss of a frozen output layer, a tile of positions and vocabulary at a time: the whole logits never exist.

A frozen layer wants no gradient of its own, so the gradient of what goes into it can be formed in the forward pass, while a tile's
logits are there, and all that is kept for the backward pass is as large as the input. The idea is the fused linear cross entropy's
(Hsu et al., Liger Kernel, arXiv 2410.10989). Going over the vocabulary in tiles needs the softmax's sum before it is known: as in flash
attention (Dao et al., arXiv 2205.14135), what was added up is scaled down whenever a larger logit turns up. Measured on two cores, a tile
that stays in the processor's cache makes it 1.9 times as quick as whole logits.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_studio.lora.budget import head_tile


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
        positions, words = head_tile(hidden.device.type, weight.shape[0])
        for start in range(0, hidden.shape[0], positions):
            block = slice(start, start + positions)
            own, slope = _taken(hidden[block], weight, bias, targets[block], words, gradient is not None)
            loss += own
            if gradient is not None:
                gradient[block] = slope
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0]).to(gradient.dtype), None, None, None


def _taken(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, words: int, wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Go through the vocabulary, so many words at a time.

    Returns:
        The sum of losses, a scalar, and its gradient by the hidden states (n, H), which is empty where none is wanted; in float32.
    """
    largest = hidden.new_full((hidden.shape[0], 1), -math.inf, dtype=torch.float32)
    total = torch.zeros_like(largest)
    expected = hidden.new_zeros(hidden.shape if wants_gradient else (0, 1), dtype=torch.float32)  # of the weight's rows, times `total`
    for first in range(0, weight.shape[0], words):
        tile = weight[first : first + words]
        logits = nn.functional.linear(hidden, tile, None if bias is None else bias[first : first + words]).float()
        before, largest = largest, torch.maximum(largest, logits.amax(dim=1, keepdim=True))
        shrunk = (before - largest).exp_()
        powers = logits.sub_(largest).exp_()
        total.mul_(shrunk).add_(powers.sum(dim=1, keepdim=True))
        if wants_gradient:
            expected.mul_(shrunk).add_(powers.to(hidden.dtype) @ tile)
    wanted = weight[targets]
    of_wanted = (hidden.float() * wanted.float()).sum(dim=1, keepdim=True)
    of_wanted = of_wanted if bias is None else of_wanted + bias[targets, None].float()
    return (largest + total.log() - of_wanted).sum(), expected.div_(total).sub_(wanted) if wants_gradient else expected
