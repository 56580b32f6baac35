"""What a run does about memory: which layers it computes again, and the ways out it names should memory be out all the same."""

from __future__ import annotations

from pathlib import Path

from lora_studio.core.config import RunConfig
from lora_studio.core.events import Notice
from lora_studio.core.targets import resolve
from lora_studio.data.token_rows import Rows
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import inspect_model
from lora_studio.planning.activations import Workload
from lora_studio.planning.budget import workload_of
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.planning.costs import Costs
from lora_studio.planning.device import find_device
from lora_studio.planning.plan import taken_message


def costs_of(config: RunConfig, folder: Path) -> Costs:
    """Return what a run's costs are counted from; the base model is in `folder`."""
    tree = inspect_model(folder)
    device = find_device(config.training.device)
    return Costs(config, read_facts(folder), tree, device, resolve(config.adapter, tree))


def largest_batch(config: RunConfig, rows: Rows) -> Workload:
    """Return the largest micro-batch that these rows make."""
    tokens = int(rows.lengths.sum())
    share = int(rows.trained_counts.sum()) / tokens if tokens else 0.0
    return workload_of(config, int(rows.lengths.max(initial=0)), share)


def choose_checkpointing(costs: Costs, workload: Workload) -> tuple[Checkpointing, Notice | None]:
    """Return what is computed again, and what a person should know of it where the estimate has decided."""
    memory = costs.memory(workload)
    if costs.config.training.gradient_checkpointing != "auto" or not memory.checkpointing.every:
        return memory.checkpointing, None
    if memory.fits:
        return memory.checkpointing, Notice(code="checkpointing_taken", message=taken_message(costs, memory, workload))
    return memory.checkpointing, Notice(
        level="warning",
        code="checkpointing_taken",
        message=f"gradient_checkpointing auto takes full, and even so a step is estimated at {memory.peak_bytes / 1e9:.1f} GB, with "
        f"{memory.capacity_bytes / 1e9:.1f} GB there.",
        hint="Should memory be out, the micro-batch is halved.",
    )
