"""Decoder layers compiled by `torch.compile`, one region for all of them.

A layer's forward pass is compiled rather than the model: all layers share their code, so it is compiled once and not once a layer.
Sizes are dynamic, so that rows of other lengths need no compiling; batches of a single row do, once, and so do layers of another kind.
Attention inside them is PyTorch's, on a processor too: our own goes through documents one by one, which would be compiled for each.
Evaluation and sampling stay as they are: a cache that grows token by token would be compiled for every layer.
"""

from __future__ import annotations

import contextlib
import functools
import sysconfig
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import Notice, RunEvent, Step
from lora_studio.kernels.forwards import with_forwards
from lora_studio.train.interrupt import decoder_layers

_FIELD = "training.torch_compile"
_MOST_VARIANTS = 32
"""Kinds of layers, batches and masks compiled for before torch would quietly stop compiling; its own limit is 8."""


class WarmUp:
    """Counts what compiling costs, and tells of it.

    Attributes:
        seconds: Spent compiling so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def begin(self, _what: object = None) -> None:
        """Note that something is about to be compiled."""
        self._began = time.perf_counter()

    def end(self, _what: object = None) -> None:
        """Note that it is."""
        self.seconds += time.perf_counter() - self._began

    def told(self, events: Iterator[RunEvent]) -> Iterator[RunEvent]:
        """Pass events on, and after each step for which something was compiled say what that cost.

        Raises:
            StudioError: torch could not compile the layers.
        """
        from torch._dynamo.exc import TorchDynamoException

        told = 0.0
        try:
            with contextlib.closing(cast("Generator[RunEvent]", events)):
                for event in events:
                    yield event
                    if isinstance(event, Step) and self.seconds > told:
                        message = f"Compiling the decoder layers took {self.seconds - told:.1f} s."
                        hint = "Steps like those before need no compiling from here on; a batch of another kind may, once."
                        told = self.seconds
                        yield Notice(step=event.step, code="compiled", message=message, hint=hint)
        except TorchDynamoException as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise StudioError(f"The decoder layers could not be compiled: {reason}", "Switch torch_compile off.", _FIELD) from error


@contextlib.contextmanager
def compiled_layers(model: nn.Module, wanted: bool = True) -> Generator[WarmUp]:
    """Compile a model's decoder layers for training, for the length of a block; it is left as it was.

    Args:
        model: The model, with its adapter.
        wanted: Whether to; where not, nothing happens.
    """
    warm_up = WarmUp()
    if not wanted:
        yield warm_up
        return
    import torch._dynamo.callback
    import torch._inductor.config

    layers = [layer for layer in decoder_layers(model) if "forward" not in vars(layer)]
    telling = cast("Any", torch._dynamo.callback.callback_handler)
    limits = cast("Any", torch._dynamo.config).patch(recompile_limit=_MOST_VARIANTS)
    one_process = cast("Any", torch._inductor.config).patch(compile_threads=1)  # no pool of processes that would outlive the run
    telling.register_start_callback(warm_up.begin)
    telling.register_end_callback(warm_up.end)
    try:
        with limits, one_process, with_forwards({layer: _compiled(layer) for layer in layers}):
            yield warm_up
    finally:
        telling.remove_start_callback(warm_up.begin)
        telling.remove_end_callback(warm_up.end)
        torch._dynamo.reset()


def refuse_without_compiler(device: torch.device) -> None:
    """Raise `InputError` where torch has nothing to compile with: Triton on a graphics card, a C++ compiler on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    if device.type == "cuda":
        if not has_triton():
            raise InputError("torch_compile needs Triton, and it is not installed here.", "Install triton, or switch it off.", _FIELD)
        return
    try:
        get_cpp_compiler()
    except RuntimeError as error:
        hint = "Install one (g++, clang, or the Build Tools of Visual Studio), or switch it off."
        raise InputError("torch_compile needs a C++ compiler, and there is none here.", hint, _FIELD) from error
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        hint = "Install them (python3-dev on Debian and Ubuntu), or switch it off."
        raise InputError("torch_compile needs Python's header files, and they are not here.", hint, _FIELD)


def _compiled(layer: nn.Module) -> Any:
    """Return a layer's forward pass: compiled where a backward pass will follow, else as it is."""
    plain = layer.forward
    compiled = torch.compile(plain, dynamic=True)

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        chosen = compiled if layer.training and torch.is_grad_enabled() else plain
        return chosen(*args, **kwargs)

    return forward
