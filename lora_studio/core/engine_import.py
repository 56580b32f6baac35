"""Bringing torch, transformers and peft in, one thread at a time.

transformers replaces itself in `sys.modules` while it is imported. A second thread that imports from it meanwhile can be
handed the half-made module (Python breaks a deadlock of import locks that way) and fails with "cannot import name". So
whoever needs the engine on a thread of its own asks here first. Nothing is imported before somebody asks.
"""

from __future__ import annotations

import importlib
import threading
from types import ModuleType

ENGINE_PARTS = (
    ("torch", "torch"),
    ("transformers", "transformers"),
    ("transformers.modeling_utils", "model classes"),
    ("transformers.models.auto.modeling_auto", "model families"),
    ("peft", "peft"),
)
"""Modules in the order they are imported, and what a person calls each."""

_IMPORTING = threading.RLock()


def import_part(module: str) -> ModuleType:
    """Import one module of the engine, or one that needs it; waits while another thread imports one."""
    with _IMPORTING:
        return importlib.import_module(module)


def import_engine() -> None:
    """Import the whole engine: some seconds the first time, nothing afterwards."""
    for module, _said in ENGINE_PARTS:
        import_part(module)
