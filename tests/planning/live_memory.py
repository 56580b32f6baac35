"""Bytes that torch's CPU allocator hands out and takes back, one by one: what a step needs, scratch space of its operations and all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lora_studio.adapters.inject import inject
from lora_studio.core.config import RunConfig
from lora_studio.kernels.batches import Batch
from lora_studio.kernels.fused_model import fused_layers
from lora_studio.models.load import load_model
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.train.checkpointing import checkpointed
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import Stepper


def peak_bytes(work: Callable[[], object]) -> int:
    """Do some work; give the most bytes that were held at once beyond what was held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def step_bytes(config: RunConfig, folder: Path, rows: Batch) -> int:
    """Return the most bytes that a step holds beyond model, adapter and optimizer; the first step has the optimizer's state made."""
    cpu = torch.device("cpu")
    model = inject(load_model(folder, getattr(torch, config.model.dtype), cpu, config.model.quantization), config.adapter, 0).train()
    precision = Precision(cpu, getattr(torch, config.training.compute_dtype))
    stepper = Stepper(model, config.training, precision)
    checkpointing = Checkpointing.of(config.training)
    assert checkpointing is not None

    def step() -> None:
        stepper.accumulate(rows, len(rows.targets), 1)
        stepper.step(1e-4)

    with precision.fused_inputs(model), fused_layers(model, parts=True), checkpointed(model, checkpointing):
        step()
        return peak_bytes(step)
