"""A model that trains in few passes over memory: everything that computes in fused passes, at once."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from torch import nn

from lora_studio.kernels.fused_lora import fused_lora_layers
from lora_studio.kernels.fused_rms_norm import fused_rms_norms
from lora_studio.kernels.fused_swiglu import fused_swiglus


@contextlib.contextmanager
def fused_layers(model: nn.Module, *, parts: bool) -> Generator[None]:
    """Let a model's adapters, and with `parts` its norms and gated MLPs, compute in fused passes for the length of a block.

    The parts are measured on a processor; `torch.compile` makes one pass of such parts by itself.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(fused_lora_layers(model))
        if parts:
            held.enter_context(fused_rms_norms(model))
            held.enter_context(fused_swiglus(model))
        yield
