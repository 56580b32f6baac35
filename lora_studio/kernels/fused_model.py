"""A model that trains in few passes over memory: everything that computes leanly, at once."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from torch import nn

from lora_studio.kernels.fused_lora import lean_adapters
from lora_studio.kernels.fused_rms_norm import lean_norms
from lora_studio.kernels.fused_swiglu import lean_mlps


@contextlib.contextmanager
def lean(model: nn.Module, *, parts: bool) -> Generator[None]:
    """Let a model's adapters, and with `parts` its norms and gated MLPs, compute leanly for the length of a block.

    The parts are measured on a processor; `torch.compile` makes one pass of such parts by itself.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(lean_adapters(model))
        if parts:
            held.enter_context(lean_norms(model))
            held.enter_context(lean_mlps(model))
        yield
