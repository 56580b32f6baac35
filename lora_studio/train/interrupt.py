"""A second stop drops the micro-batch under way: every layer looks, forwards and backwards."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from torch import Tensor, nn

from lora_studio.core.control import Control
from lora_studio.core.errors import Cancelled


@contextlib.contextmanager
def abandoning(model: nn.Module, control: Control) -> Generator[None]:
    """Raise `Cancelled` from within the model's next layer once the person asks to abandon the step.

    A micro-batch can take minutes; a layer takes a small part of it.
    """

    def look(*_arguments: Any) -> None:
        if control.abandoning:
            raise Cancelled

    def after_forward(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        look()
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            hidden.register_hook(look)  # called as the gradient comes back to this layer

    handles = [layer.register_forward_hook(after_forward) for layer in decoder_layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return a model's layers: the members of its outermost module list, or the model itself where it has none."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module):
            return list(module)
    return [model]
