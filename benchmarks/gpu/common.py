"""What several checks need: tiny models, rows, runs, and how far apart two gradients are."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from benchmarks.gpu.call import Setting
from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.events import Notice, RunEvent, Step
from lora_studio.core.runs import RunFolder
from lora_studio.train.engine import train
from tests.tiny import save_tiny_model, write_chat_rows
from tests.train.helpers import adapted_model, new_run, run_config

Gradients = dict[str, Tensor]
SINGLE, HALF = torch.float32, torch.bfloat16


def place(setting: Setting) -> torch.device:
    """Return the device of a check, which computes float32 in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(setting.device)


def tiny_folder(setting: Setting, architecture: str, **changes: Any) -> Path:
    """Return the folder of a tiny model, made once a call."""
    told = "-".join(f"{name}={value}" for name, value in changes.items())
    folder = Path(setting.folder) / "models" / f"{architecture}{told and '-'}{told}"
    return folder if folder.is_dir() else save_tiny_model(folder, architecture, **changes)


def tiny_adapted(
    setting: Setting,
    architecture: str,
    dtype: torch.dtype = SINGLE,
    dropout: float = 0.0,
    **changes: Any,
) -> PeftModel:
    """Return a tiny model with an adapter whose B is not zero, on the device."""
    folder = tiny_folder(setting, architecture, **changes)
    return adapted_model(folder, architecture, dropout, dtype).to(place(setting))


def gradients(model: nn.Module) -> Gradients:
    """Take a model's gradients away from it, in float64 on the host."""
    taken = {name: own.grad.double().cpu() for name, own in model.named_parameters() if own.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


def norm(some: Gradients) -> float:
    """Return the norm of all gradients together."""
    return float(sum(gradient.square().sum() for gradient in some.values())) ** 0.5


def distance(some: Gradients, others: Gradients) -> float:
    """Return how far gradients are from others, by norm and relative to those; 1 where they are not of the same parameters."""
    if some.keys() != others.keys() or not others:
        return 1.0
    return norm({name: some[name] - others[name] for name in others}) / max(norm(others), 1e-30)


def relative(one: float, other: float) -> float:
    """Return how far a number is from another, relative to that; infinite where it is not finite."""
    found = abs(one / other - 1) if other else abs(one)
    return found if found == found else float("inf")


def tiny_run(setting: Setting, name: str, changes: Mapping[str, object], architecture: str = "llama", rows: int = 24) -> RunFolder:
    """Make the folder of a run of a tiny model on the device: no samples, nothing held out."""
    data = Path(setting.folder) / f"rows-{rows}.jsonl"
    if not data.is_file():
        write_chat_rows(data, rows)
    config: RunConfig = run_config(
        tiny_folder(setting, architecture),
        data,
        {"training.sample_rows": 0, "data.eval_fraction": 0.0, "training.device": setting.device, "training.max_steps": 6, **changes},
    )
    return new_run(Path(setting.folder) / "runs" / name, config)


def events_of(run: RunFolder, context: TaskContext | None = None, resume: bool = False) -> Iterator[RunEvent]:
    """Train a run with the studio's engine."""
    return train(context or TaskContext(), str(run.path), resume)


def losses_of(events: list[RunEvent]) -> list[float]:
    """Return the losses told, in the order of their steps."""
    return [event.loss for event in events if isinstance(event, Step)]


def codes_of(events: list[RunEvent]) -> list[str]:
    """Return the codes of all notices."""
    return [event.code for event in events if isinstance(event, Notice)]


def farthest(some: list[float], others: list[float]) -> float:
    """Return the largest relative difference of two lists of losses; infinite where they are not equally long."""
    if len(some) != len(others) or not others:
        return float("inf")
    return max(relative(one, other) for one, other in zip(some, others))


@contextlib.contextmanager
def peak_of(device: torch.device) -> Generator[dict[str, int]]:
    """Measure the most bytes allocated and reserved on a card in a block, beyond what was there; empty on a processor."""
    found: dict[str, int] = {}
    if device.type != "cuda":
        yield found
        return
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    yield found
    torch.cuda.synchronize()
    found["allocated"] = torch.cuda.max_memory_allocated() - allocated
    found["reserved"] = torch.cuda.max_memory_reserved() - reserved
