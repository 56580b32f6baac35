"""The task that brings the engine in: torch, transformers and peft are imported on a worker, each step told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import ENGINE_PARTS, import_part
from lora_studio.core.events import Phase, RunEvent, RunFinished


def load_engine(context: TaskContext) -> Iterator[RunEvent]:
    """Task: import what training needs, and say what is there; result `{"torch", "transformers", "peft", "device", "device_name"}`."""
    for number, (module, said) in enumerate(ENGINE_PARTS):
        context.control.check()
        yield Phase(name="loading", message=f"Loading the engine: {said}", done=number, total=len(ENGINE_PARTS), unit="parts")
        import_part(module)
    quieten()
    yield Phase(name="loading", message="Looking for devices", done=len(ENGINE_PARTS), total=len(ENGINE_PARTS), unit="parts")
    yield RunFinished(result=describe_engine())


def quieten() -> None:
    """Keep transformers' progress bars off standard error: the studio tells progress by events."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def describe_engine() -> dict[str, Any]:
    """Return versions and the device that `auto` takes, as JSON."""
    import peft
    import torch
    import transformers

    from lora_studio.models.device import has_quick_bfloat16, pick_device

    device = pick_device()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        "quick_bfloat16": has_quick_bfloat16(device),
        "threads": torch.get_num_threads(),
    }
