"""A model that trains in few passes over memory: everything that computes leanly, at once."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from torch import nn

from lora_studio.lora.lean import lean_adapters
from lora_studio.lora.lean_mlp import lean_mlps
from lora_studio.lora.lean_norm import lean_norms


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
