"""What a step of a run costs in memory and arithmetic, and what it would under other settings. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_studio.core.config import RunConfig
from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets import Resolution, resolve
from lora_studio.planning.activations import Workload
from lora_studio.planning.budget import MemoryBudget, estimate_memory
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.planning.device import Device
from lora_studio.planning.flops import StepFlops, step_flops

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts


@dataclass(frozen=True)
class Costs:
    """A run on a model and a device: what its costs are counted from.

    Attributes:
        config: The run.
        facts: Sizes of the base model.
        tree: Its modules.
        device: Where it runs.
        resolution: What the adapter's settings come to.
    """

    config: RunConfig
    facts: ModelFacts
    tree: ModuleTree
    device: Device
    resolution: Resolution

    def memory(self, workload: Workload) -> MemoryBudget:
        """Estimate the memory of a step with this largest micro-batch."""
        return estimate_memory(self.config, self.facts, self.tree, self.resolution, workload, self.device)

    def under(self, changes: Mapping[str, object]) -> Costs:
        """Return the costs of the run under other settings."""
        config = self.config.replace(changes)
        resolution = self.resolution if config.adapter == self.config.adapter else resolve(config.adapter, self.tree)
        return replace(self, config=config, resolution=resolution)

    def a_step(self, checkpointing: Checkpointing) -> StepFlops:
        """Return what rows cost in arithmetic, with so much computed again."""
        return step_flops(self.facts, self.tree, self.resolution, checkpointing.share(self.facts.layers))

    def flops(self, workload: Workload, checkpointing: Checkpointing) -> float:
        """Count the operations of a micro-batch, forwards and backwards, padding and all."""
        return self.a_step(checkpointing).of([workload.length] * workload.rows, workload.trained)
