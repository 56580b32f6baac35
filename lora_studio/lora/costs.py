"""What a step of a run costs in memory and arithmetic, and what it would under other settings. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_studio.core.config import RunConfig
from lora_studio.core.counts import trainable_parameters
from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets import Resolution, resolve
from lora_studio.lora.activations import Workload
from lora_studio.lora.budget import MemoryBudget, estimate_memory
from lora_studio.lora.checkpointing import Checkpointing
from lora_studio.lora.device import Device

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
        """Give the costs of the run under other settings."""
        config = self.config.replace(changes)
        resolution = self.resolution if config.adapter == self.config.adapter else resolve(config.adapter, self.tree)
        return replace(self, config=config, resolution=resolution)

    def flops(self, workload: Workload, checkpointing: Checkpointing) -> float:
        """Count the multiplications and additions of a micro-batch, forwards and backwards.

        A frozen matrix costs 2 a parameter and token forwards and 2 backwards, what is computed again 2 more; an adapter 6. Attention
        costs A = 2 · heads · head_dim · length a layer and token forwards and 2 A backwards. The output layer is taken at trained
        positions alone.
        """
        facts, layers = self.facts, max(1, self.facts.layers)
        head = facts.vocab_size * facts.hidden_size
        inner = self._matrices() - (head if self.tree.output_module else 0)
        adapter = trainable_parameters(self.config.adapter, self.tree, self.resolution)
        attention = 2 * layers * facts.heads * facts.head_dim * workload.length
        again = sum(checkpointing.recomputes(layer, layers) for layer in range(layers)) / layers
        forward = 2 * inner + 2 * adapter + attention
        a_token = forward + (2 * inner + 4 * adapter + 2 * attention) + again * forward
        return workload.tokens * a_token + workload.trained * 4 * head

    def _matrices(self) -> float:
        """Count the parameters of the matrices a token goes through: of fused experts only the share it is sent to."""
        taken = self.facts.experts_per_token / max(1, self.facts.experts)
        weights = {"linear": 1.0, "conv1d": 1.0, "experts": taken}
        return sum(
            weights[module.kind] * (module.parameters if module.kind == "experts" else module.own_parameters)
            for module in self.tree.modules if module.kind in weights)
