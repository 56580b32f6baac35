"""What autograd keeps between forward and backward of a frozen decoder with adapters, counted tensor by tensor.

A frozen Linear keeps no input, but its weight where autocast has cast it (`fused_lora` casts it again). An adapter keeps its input
in the dtype of the products, which neighbours share unless dropout or a cast parts them. Norms keep their input, in float32 where they
are the model's own, attention its queries, keys, values and, but for a processor's, its output, an MLP what its activation and its
product need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets import Resolution, Target
from lora_studio.core.targets.matching import layer_of
from lora_studio.planning.precision import Precisions
from lora_studio.planning.tiles import GATED_AT_ONCE, scores_at_once

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts

_SMALL_SHARE = 8
_IN_FLOAT32 = 4
_SILU = {"SiLU", "SiLUActivation"}


def keeps_a_output(rank: int, features_in: int) -> bool:
    """Return whether a fused layer (`kernels.fused_lora`) keeps x·Aᵀ for its backward pass; else it computes it again.

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


_FUSED_QKV = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")
_ATTENTION_OUTPUT = ("o_proj", "out_proj", "dense", "c_proj")


@dataclass(frozen=True)
class StepMemoryModel:
    """A micro-batch going through a model: what the counts below are of.

    Attributes:
        facts: Sizes of the model.
        tree: Its modules.
        resolution: Those that get an adapter.
        workload: The micro-batch.
        precisions: How numbers are held.
        dropout: Whether the adapters have some.
        device: Kind of the device.
        quantized: Modules whose weight is held in fewer bits.
    """

    facts: ModelFacts
    tree: ModuleTree
    resolution: Resolution
    workload: Workload
    precisions: Precisions
    dropout: bool = False
    device: str = "cpu"
    quantized: frozenset[str] = frozenset()

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
        base = self.workload.tokens * self._kept_by_a_token() + self._cast_weights()
        return [base + extra.get(layer, 0) for layer in range(min(extra), max(self.facts.layers, 1))]

    @property
    def into_a_layer(self) -> int:
        """Bytes of what goes from layer to layer."""
        return self.workload.tokens * self.facts.hidden_size * self.precisions.base_bytes

    @property
    def gradients_in_a_layer(self) -> int:
        """Bytes on their way through a layer backwards, at most: in its MLP, two gradients, or one and the weight unpacked to go on.

        As `lora.lean_mlp` computes it, three, where the product has gone before them, and a stretch of the activation.
        """
        facts, size = self.facts, self.precisions.compute_bytes
        inner = self.workload.tokens * facts.intermediate_size * max(1, facts.experts_per_token)
        unpacked = max((self.tree.by_name[name].own_parameters for name in self.quantized), default=0)
        if _has_fused_swiglu(self._layer_modules, facts, self.device):
            product = inner if any(target.name.endswith("down_proj") for target in self.resolution.targets) else 0
            return self.into_a_layer + (inner + max(2 * inner - product + min(inner, GATED_AT_ONCE), unpacked)) * size
        return self.into_a_layer + (inner + max(inner, unpacked)) * size

    @property
    def scores(self) -> int:
        """Bytes of attention's scores at a time, which a processor keeps room for: as products, and as powers in float32."""
        if self.device != "cpu":
            return 0
        facts, size = self.facts, self.precisions.compute_bytes
        number = scores_at_once(self.workload.rows, self.workload.length, facts.heads, facts.kv_heads)
        return number * (size + (_IN_FLOAT32 if size < _IN_FLOAT32 else 0))

    @property
    def kept_behind_layers(self) -> int:
        """Bytes kept of what follows the layers, free before the backward pass comes to them: the last norm, and what the head sees."""
        hidden = self.facts.hidden_size
        last = next((module for module in reversed(self.tree.modules) if _norm_width(module, self.facts) == hidden), None)
        kept = _IN_FLOAT32 if last is None else self._norm_bytes(last)
        return self.workload.tokens * hidden * kept + self.workload.trained * hidden * self.precisions.compute_bytes

    @cached_property
    def _layer_modules(self) -> list[ModuleInfo]:
        return _first_layer(self.tree)

    def _cast_weights(self) -> int:
        """Return the bytes of a layer's matrices as autocast keeps them for the backward pass; quantized ones are
        unpacked, and fused ones cast, again instead."""
        if not self._mixed:
            return 0
        spared = self.quantized | {target.name for target in self.resolution.targets if self._lean(target)}
        matrices = (module for module in self._layer_modules if module.kind in ("linear", "conv1d"))
        return sum(module.own_parameters for module in matrices if module.name not in spared) * self.precisions.compute_bytes

    def _kept_by_adapters(self) -> Iterator[tuple[int, int]]:
        """Return (layer, bytes) for what adapters keep: their inputs and A's output."""
        seen: set[tuple[str, int, bool]] = set()
        size = self.precisions.compute_bytes
        for target in self.resolution.targets:
            module = self.tree.by_name[target.name]
            layer = layer_of_gradient(target.name, self.facts)
            if target.kind == "experts":
                # PEFT adds the update to the whole stack of experts in every forward pass, and keeps the sum.
                yield layer, module.parameters * self.precisions.base_bytes
                continue
            width = 0 if self._lean(target) and not keeps_a_output(target.r, module.in_features) else target.r * size
            after = _takes_attention(module)
            shared = (module.parent, module.in_features, after)
            kept = shared in seen or (self._attention_keeps_output and after)
            if target.kind != "embedding" and (self.dropout or not kept):
                width += module.in_features * (size + self._mask_bytes(module))
                if not (self._mixed and self._reads_stream(module)):  # else autocast casts the same input for each anew
                    seen.add(shared)
            yield layer, self.workload.tokens * width

    def _lean(self, target: Target) -> bool:
        """Return whether a target's layer is one that `kernels.fused_lora` computes."""
        adapter = self.resolution.adapter
        unlike = self.dropout or adapter.use_dora or adapter.bias != "none" or target.name in self.quantized
        return target.kind in ("linear", "conv1d") and not unlike

    @property
    def _attention_keeps_output(self) -> bool:
        """Whether attention keeps what it gives; that of `generate.block_attention` does not."""
        return self.device != "cpu"

    @property
    def _mixed(self) -> bool:
        return self.precisions.base != self.precisions.compute

    def _reads_stream(self, module: ModuleInfo) -> bool:
        """Return whether a module reads a norm's output, which is of the base's dtype; what others read is a product's."""
        return module.in_features == self.facts.hidden_size and not _takes_attention(module)

    def _mask_bytes(self, module: ModuleInfo) -> int:
        """Return the bytes dropout keeps of each number: a truth value on a graphics card, on a processor a factor of the input's dtype."""
        if not self.dropout:
            return 0
        if self.device != "cpu":
            return 1
        return self.precisions.base_bytes if self._reads_stream(module) else self.precisions.compute_bytes

    def _norm_bytes(self, module: ModuleInfo) -> int:
        """Return the bytes a norm keeps of each number it sees: on a processor `lora.fused_rms_norm` keeps what it is given."""
        return self.precisions.base_bytes if self.device == "cpu" and "RMSNorm" in module.class_name else _IN_FLOAT32

    def _kept_by_a_token(self) -> int:
        """Return the bytes one token leaves in one layer, adapters aside."""
        facts = self.facts
        layer = self._layer_modules
        queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
        output = queries if self._attention_keeps_output else 0
        attention = queries + output + 2 * keys
        if any(module.leaf_name in _FUSED_QKV for module in layer):
            turned = queries + keys if facts.model_type != "gpt2" else 0  # by their positions: queries and keys are tensors of their own
            attention = queries + turned + output + 2 * keys  # the values are a part of the whole product, which stays
        inner = facts.intermediate_size * max(1, facts.experts_per_token)
        norms = sum(_norm_width(module, facts) * self._norm_bytes(module) for module in layer)
        return (attention + _mlp_tensors(layer, facts, self.device) * inner) * self.precisions.compute_bytes + norms


def _takes_attention(module: ModuleInfo) -> bool:
    """Return whether a projection reads what attention gives, which attention itself keeps."""
    above = module.parent.rpartition(".")[2]
    return module.leaf_name in _ATTENTION_OUTPUT and ("attn" in above or "attention" in above)


def _mlp_tensors(layer: list[ModuleInfo], facts: ModelFacts, device: str) -> int:
    """Count the tensors of the MLP's inner width that its activation keeps.

    Gated: the gate, its activation, which `lora.lean_mlp` makes again on a processor, and the up projection. GPT-2's own GELU is written
    out in several operations.
    """
    leaves, classes = {module.leaf_name for module in layer}, {module.class_name for module in layer}
    if _has_fused_swiglu(layer, facts, device):
        return 2
    if leaves & {"gate_proj", "gate_up_proj", "w1"}:
        return 3
    return 4 if "NewGELUActivation" in classes else 1


def _has_fused_swiglu(layer: list[ModuleInfo], facts: ModelFacts, device: str) -> bool:
    """Return whether `lora.lean_mlp` computes a layer's MLP; of experts, which may lie in one tensor, the worst is assumed."""
    gated = any(module.leaf_name == "gate_proj" for module in layer)
    return device == "cpu" and not facts.experts_per_token and gated and any(module.class_name in _SILU for module in layer)


def _norm_width(module: ModuleInfo, facts: ModelFacts) -> int:
    """Return the numbers a norm sees of one token: the stream's width, or every head's; 0 for what is no norm."""
    if len(module.shape) != 1 or module.kind != "other":
        return 0
    if module.shape[0] != facts.head_dim or facts.head_dim == facts.hidden_size:
        return module.shape[0]
    return facts.head_dim * (facts.kv_heads if module.leaf_name.startswith("k") else facts.heads)


def layer_of_gradient(name: str, facts: ModelFacts) -> int:
    """Return the layer from which on a module's training needs gradients; what follows the layers needs none of them."""
    layer = layer_of(name)
    if layer is not None:
        return layer
    return 0 if "emb" in name or "wte" in name else facts.layers


def _first_layer(tree: ModuleTree) -> list[ModuleInfo]:
    """Return the modules of the first numbered layer."""
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
