"""What autograd keeps between forward and backward of a frozen decoder with adapters, counted tensor by tensor.

A frozen Linear keeps no input. An adapter keeps its input in the dtype of the products, which neighbours share unless dropout or a cast
parts them. Norms keep their input in float32, attention its queries, keys, values and output, an MLP what its activation and its product
need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets import Resolution, Target
from lora_studio.core.targets.matching import layer_of
from lora_studio.lora.precision import Precisions

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts

_SMALL_SHARE = 8


def keeps_a_output(rank: int, features_in: int) -> bool:
    """Say whether a lean layer (`lora.lean`) keeps x·Aᵀ for its backward pass; else it computes it again.

    It does where that is no more than 1/8 of the input: measured, another pass over the input costs more than sparing so little is worth.
    """
    return rank * _SMALL_SHARE <= features_in


@dataclass(frozen=True)
class Workload:
    """The largest micro-batch.

    Attributes:
        rows: Rows in it.
        length: Tokens of its longest row, to which the others are padded.
        trained: Positions whose loss is taken.
    """

    rows: int
    length: int
    trained: int

    @property
    def tokens(self) -> int:
        """Positions computed, padding and all."""
        return self.rows * self.length


@dataclass(frozen=True)
class Step:
    """A micro-batch going through a model: what the counts below are of."""

    facts: ModelFacts
    tree: ModuleTree
    resolution: Resolution
    workload: Workload
    precisions: Precisions
    dropout: bool

    @cached_property
    def kept_by_layers(self) -> list[int]:
        """Bytes kept of each layer, from the first one that needs a gradient on."""
        extra: dict[int, int] = {}
        for layer, size in self._kept_by_adapters():
            extra[layer] = extra.get(layer, 0) + size
        for name in self.resolution.saved_modules:
            extra.setdefault(layer_of_gradient(name, self.facts), 0)
        if not extra:
            return []
        base = self.workload.tokens * self._kept_by_a_token()
        return [base + extra.get(layer, 0) for layer in range(min(extra), max(self.facts.layers, 1))]

    def kept_around_layers(self, trained_parameters: int) -> int:
        """Bytes kept beside the layers: the last norm, the positions the head sees, and weights cast for the products."""
        hidden, size = self.facts.hidden_size, self.precisions.compute_bytes
        kept = self.workload.tokens * hidden * 4 + self.workload.trained * hidden * size
        if self.precisions.base != self.precisions.compute:
            recast = sum(self.tree.by_name[target.name].parameters for target in self.resolution.targets if self._lean(target))
            kept += (self.tree.all_parameters - recast) * size
        return kept + trained_parameters * size if self.precisions.compute != "float32" else kept

    def _kept_by_adapters(self) -> Iterator[tuple[int, int]]:
        """Give (layer, bytes) for what adapters keep: their inputs and A's output."""
        seen: set[tuple[str, int]] = set()
        size = self.precisions.compute_bytes
        parted = self.dropout or self.precisions.base != self.precisions.compute
        for target in self.resolution.targets:
            module = self.tree.by_name[target.name]
            layer = layer_of_gradient(target.name, self.facts)
            if target.kind == "experts":
                # PEFT adds the update to the whole stack of experts in every forward pass, and keeps the sum.
                yield layer, module.parameters * self.precisions.base_bytes
                continue
            width = 0 if self._lean(target) and not keeps_a_output(target.r, module.in_features) else target.r * size
            shared = (module.parent, module.in_features)
            if target.kind != "embedding" and (parted or shared not in seen):
                width += module.in_features * (size + 1 if self.dropout else size)
                seen.add(shared)
            yield layer, self.workload.tokens * width

    def _lean(self, target: Target) -> bool:
        """Say whether a target's layer is one that `lora.lean` computes."""
        adapter = self.resolution.adapter
        return target.kind in ("linear", "conv1d") and not (self.dropout or adapter.use_dora or adapter.bias != "none")

    def _kept_by_a_token(self) -> int:
        """Give the bytes one token leaves in one layer, adapters aside."""
        facts = self.facts
        layer = _first_layer(self.tree)
        attention = 2 * facts.heads * facts.head_dim + 2 * facts.kv_heads * facts.head_dim
        inner = facts.intermediate_size * max(1, facts.experts_per_token)
        norms = 4 * sum(_norm_width(module, facts) for module in layer)
        return (attention + _mlp_tensors(layer) * inner) * self.precisions.compute_bytes + norms


def _mlp_tensors(layer: list[ModuleInfo]) -> int:
    """Count the tensors of the MLP's inner width that its activation keeps.

    Gated: the gate, its activation, and the up projection. GPT-2's own GELU is written out in several operations.
    """
    if any(module.leaf_name in ("gate_proj", "gate_up_proj", "w1") for module in layer):
        return 3
    return 5 if any(module.class_name == "NewGELUActivation" for module in layer) else 1


def _norm_width(module: ModuleInfo, facts: ModelFacts) -> int:
    """Give the numbers a norm sees of one token: the stream's width, or every head's; 0 for what is no norm."""
    if len(module.shape) != 1 or module.kind != "other":
        return 0
    if module.shape[0] != facts.head_dim or facts.head_dim == facts.hidden_size:
        return module.shape[0]
    return facts.head_dim * (facts.kv_heads if module.leaf_name.startswith("k") else facts.heads)


def layer_of_gradient(name: str, facts: ModelFacts) -> int:
    """Give the layer from which on a module's training needs gradients; what follows the layers needs none of them."""
    layer = layer_of(name)
    if layer is not None:
        return layer
    return 0 if "emb" in name or "wte" in name else facts.layers


def _first_layer(tree: ModuleTree) -> list[ModuleInfo]:
    """Give the modules of the first numbered layer."""
    found: list[ModuleInfo] = []
    first: int | None = None
    for module in tree.modules:
        layer = layer_of(module.name)
        if layer is None:
            continue
        if first is None:
            first = layer
        elif layer != first:
            break
        found.append(module)
    return found
