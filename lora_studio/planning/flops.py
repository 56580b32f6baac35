"""What a LoRA step computes, in floating-point operations of its matrix products: 4N + 3A + 6·N_adapter a token.

N are the weights that a token is multiplied with, A what causal attention takes of it in the forward pass. Each weight costs 2 forwards and
2 for its input's gradient; a frozen one wants no more, one that trains 2 for its own. The usual 6N overstates LoRA by half. Here the
head counts for trained positions alone, where it runs, and what lies before the first adapter counts forwards only. Recomputed layers
count again. Norms, activations and the optimizer are left out, as is the custom; a sliding window counts as if it were full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.core.counts import parameters_of_target
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets import Resolution
from lora_studio.planning.activations import layer_of_gradient

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts

_FORWARD = 2  # a multiplication and an addition for each weight
_MATMULS = ("linear", "conv1d", "experts")


@dataclass(frozen=True)
class StepFlops:
    """What one micro-batch costs, forwards and backwards.

    Attributes:
        a_token: Of each token, attention aside.
        a_trained: Of each position whose loss is taken, on top.
        a_pair: Of each token and each it attends to, itself among them.
    """

    a_token: float
    a_trained: float
    a_pair: float

    def of(self, lengths: Iterable[int], trained: int) -> float:
        """Return the operations of rows of these lengths, padding left out, with so many trained positions."""
        tokens = pairs = 0
        for length in lengths:
            tokens += length
            pairs += length * length / 2
        return self.a_token * tokens + self.a_trained * trained + self.a_pair * pairs


def step_flops(facts: ModelFacts, tree: ModuleTree, resolution: Resolution, recomputed: float = 0.0) -> StepFlops:
    """Count a model with an adapter.

    Args:
        facts: Sizes of the base model.
        tree: Its modules.
        resolution: What the adapter's settings come to.
        recomputed: Share of the layers that are computed again in the backward pass (`gradient_checkpointing`).
    """
    trains = {*(target.name for target in resolution.targets), *resolution.saved_modules}
    first = min((layer_of_gradient(name, facts) for name in trains), default=facts.layers)
    again = _FORWARD * recomputed
    a_token = a_trained = 0.0
    for module in tree.modules:
        if module.kind not in _MATMULS:
            continue
        weights = _share(module, facts) * math.prod(module.shape)
        backward = 0 if layer_of_gradient(module.name, facts) < first else _FORWARD + again
        if module.name == tree.output_module:
            a_trained += weights * 2 * _FORWARD
        else:
            a_token += weights * (_FORWARD + backward)
        if module.name in resolution.saved_modules:
            a_token += weights * _FORWARD
    for target in resolution.targets:
        module = tree.by_name[target.name]
        added = _share(module, facts) * parameters_of_target(module, target.r)
        if target.name == tree.output_module:
            a_trained += added * 3 * _FORWARD
        elif target.kind != "embedding":
            a_token += added * (3 * _FORWARD + again)
    back = facts.layers - min(first, facts.layers)
    # Scores and their sum of values: 2 · 2 operations for each number of each head and each pair.
    a_pair = 2 * _FORWARD * facts.heads * facts.head_dim * (facts.layers + back * (2 + recomputed))
    return StepFlops(a_token, a_trained, a_pair)


def _share(module: ModuleInfo, facts: ModelFacts) -> float:
    """Return the part of a module's weights that one token meets: of fused experts, those it is sent to."""
    return facts.experts_per_token / module.num_experts if module.num_experts > 1 else 1.0
