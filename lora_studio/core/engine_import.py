"""Bringing torch, transformers and peft in, one thread at a time, without stopping the other threads.

transformers replaces itself in `sys.modules` while it is imported. A second thread that imports from it meanwhile can be
handed the half-made module (Python breaks a deadlock of import locks that way) and fails with "cannot import name". So
whoever needs the engine on a thread of its own asks here first. Nothing is imported before somebody asks.

Two things in an import hold every other thread up, the window's among them: the collector, which goes through a million
new objects again and again (0.17 s each time), and the linking of torch's libraries (0.13 s). The collector rests
meanwhile, and is told afterwards that these objects are here to stay, so that no later collection goes through them; the
libraries are opened by a call that lets other threads run.

peft brings bitsandbytes in where it is installed, and that fetches compiled code from the Hub while it is imported if the package
`kernels` is there. No code is taken from the Hub here, so both are told that there is no such package. bitsandbytes also has four of its
functions compiled as it is imported, which brings torch's whole compiler in, a fifth of the time of an engine's start; they are compiled
when they are first called.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

ENGINE_PARTS = (
    ("torch", "torch"),
    ("transformers", "transformers"),
    ("transformers.modeling_utils", "model classes"),
    ("transformers.models.auto.modeling_auto", "model families"),
    ("peft", "peft"),
)
"""Modules in the order they are imported, and what a person calls each."""

_NAMES = frozenset(module for module, _said in ENGINE_PARTS)
_IMPORTING = threading.RLock()


def import_part(module: str) -> ModuleType:
    """Import one module of the engine, or one that needs it; waits while another thread imports one."""
    with _IMPORTING:
        if module in sys.modules:
            return importlib.import_module(module)
        with _no_collection(keep=module in _NAMES), _no_fetched_kernels(), compiled_when_called(module):
            if module == "torch":
                _open_libraries()
            return importlib.import_module(module)


def import_engine() -> None:
    """Import the whole engine: some seconds the first time, nothing afterwards."""
    for module, _said in ENGINE_PARTS:
        import_part(module)


@contextlib.contextmanager
def _no_collection(*, keep: bool) -> Generator[None]:
    """Let the collector rest; inside another such block nothing changes.

    Args:
        keep: Take all that is in memory afterwards out of its sight: not to be asked for once a model is loaded, which would
            then never be collected.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if keep:
            gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _no_fetched_kernels() -> Generator[None]:
    """Hide the package that fetches compiled code from the Hub, and what bitsandbytes has to say of its absence."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    hidden = "kernels" not in sys.modules
    if hidden:
        sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop("kernels", None)


@contextlib.contextmanager
def compiled_when_called(module: str) -> Generator[None]:
    """Have `torch.compile` wait for a function's first call, while peft brings bitsandbytes in."""
    torch: Any = sys.modules.get("torch")
    if module != "peft" or torch is None:
        yield
        return
    compile_now: Callable[..., Callable[..., Any]] = torch.compile

    def compile_later(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        compiled = functools.cache(lambda: compile_now(function, **settings))

        @functools.wraps(function)
        def called(*given: Any, **named: Any) -> Any:
            return compiled()(*given, **named)

        return called

    torch.compile = compile_later
    try:
        yield
    finally:
        torch.compile = compile_now


def _open_libraries() -> None:
    """Link torch's libraries, which its import then finds in memory; where that cannot be done the import does it itself.

    Python holds all threads up while it links an extension; a foreign call lets them run.
    """
    spec = importlib.util.find_spec("torch")
    library = Path(spec.origin or "").parent / "lib" / "libtorch_python.so" if spec is not None else None
    if os.name == "posix" and library is not None and library.is_file():
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).dlopen(os.fsencode(library), os.RTLD_NOW | os.RTLD_LOCAL)
