"""Modules that compute in another way for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

from torch import nn


@contextlib.contextmanager
def with_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Generator[None]:
    """Yield modules these forward passes for the length of a block; afterwards they are what they were."""
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, own in before.items():
            del module.forward
            if own is not None:
                module.forward = own
