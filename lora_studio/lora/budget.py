"""The memory a run needs, before it runs: the largest moment of a step, and what fills it.

A step is looked at as moments, not as a sum of maxima: the end of the forward pass and loss, the backward pass of a layer, the optimizer. What
autograd keeps is counted tensor by tensor for a frozen decoder with adapters: a frozen Linear keeps no input, an adapter keeps its own, norms
keep theirs in float32, attention keeps its inputs and output, the MLP what its activation and product need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.core.adapter_file import BYTES_OF_DTYPE
from lora_studio.core.config import RunConfig
from lora_studio.core.counts import count_by_module, trained_biases
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets import Resolution, resolve
from lora_studio.core.targets.matching import layer_of
from lora_studio.lora.device import Device, find_device

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts

# Interpreter, torch, transformers and their threads: resident on the CPU, context and library workspaces on a GPU.
_RUNTIME_BYTES = {"cuda": 700_000_000, "mps": 900_000_000, "cpu": 650_000_000}
_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits_and_loss", "runtime")
# cross_entropy in float32: log-probabilities kept, their gradient, and the gradient of the logits.
_BYTES_A_LOGIT = 12
_USUAL_TRAINED_SHARE = 0.5


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
class MemoryBudget:
    """The memory a run is expected to need at its largest moment.

    Attributes:
        device: Where.
        parts: What fills that moment, in bytes; they add up to `peak_bytes`.
        peak_bytes: The largest moment.
        capacity_bytes: Memory of the device; 0 when unknown.
        moment: Which moment that is: loss, backward or optimizer.
    """

    device: Device
    parts: dict[str, int]
    peak_bytes: int
    capacity_bytes: int
    moment: str

    @property
    def fits(self) -> bool:
        """Whether the device is large enough; an unknown device is taken to be."""
        return not self.capacity_bytes or self.peak_bytes <= self.capacity_bytes

    def to_json(self) -> dict[str, object]:
        """Give the `memory` of `plan --json`."""
        return {
            "device": self.device.to_json(), "capacity_bytes": self.capacity_bytes, "peak_bytes": self.peak_bytes, "fits": self.fits,
            "parts": dict(self.parts),
        }


@dataclass(frozen=True)
class Precisions:
    """Bytes of a number: as the base model is stored, as products are computed."""

    base: str
    compute: str

    @property
    def base_bytes(self) -> int:
        """Of a base weight."""
        return BYTES_OF_DTYPE[self.base]

    @property
    def compute_bytes(self) -> int:
        """Of an activation that products make."""
        return BYTES_OF_DTYPE[self.compute]


def precisions_of(config: RunConfig, facts: ModelFacts, device: Device) -> Precisions:
    """Give the dtypes a run will take, by the rules of `models.load.pick_dtype` and the engine."""
    base: str = config.model.dtype
    wanted: str = config.training.compute_dtype
    if base == "auto":
        base = _auto_dtype(facts, device) if wanted != "float32" else "float32"
    if wanted != "auto":
        return Precisions(base, wanted)
    return Precisions(base, "bfloat16" if base == "float32" and device.quick_bfloat16 else base)


def _auto_dtype(facts: ModelFacts, device: Device) -> str:
    if device.quick_bfloat16:
        return "bfloat16"
    return "float16" if device.kind == "cuda" and facts.dtype in ("float16", "bfloat16") else "float32"


def workload_of(config: RunConfig, longest: int = 0, trained_share: float = 0.0) -> Workload:
    """Give the largest micro-batch: full of rows as long as the longest known one, or as `max_length` allows."""
    rows = config.training.per_device_train_batch_size
    length = min(longest, config.data.max_length) if longest else config.data.max_length
    share = trained_share or (1.0 if config.data.train_on == "all" else _USUAL_TRAINED_SHARE)
    return Workload(rows, length, max(1, round(rows * length * share)))


def estimate_memory(
    config: RunConfig, facts: ModelFacts, tree: ModuleTree, resolution: Resolution | None = None, workload: Workload | None = None,
    device: Device | None = None,
) -> MemoryBudget:
    """Estimate the memory of a training step, by part.

    Args:
        config: The run.
        facts: Sizes of the base model.
        tree: Its modules.
        resolution: What the adapter's settings come to; None resolves them.
        workload: The largest micro-batch; None assumes rows of `max_length`.
        device: Where; None looks for the one the config means.
    """
    resolution = resolution or resolve(config.adapter, tree)
    workload = workload or workload_of(config)
    device = device or find_device(config.training.device)
    precisions = precisions_of(config, facts, device)
    trained = _trained_bytes(config, tree, resolution, precisions)
    held = {
        "weights": tree.all_parameters * precisions.base_bytes, "adapter": trained, "optimizer": 2 * trained,
        "runtime": _RUNTIME_BYTES.get(device.kind, _RUNTIME_BYTES["cpu"]),
    }
    moments = _moments(config, facts, tree, resolution, workload, precisions, trained)
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    filled = {**held, **moments[moment]}
    parts = {part: filled.get(part, 0) for part in _PARTS}
    return MemoryBudget(device, parts, sum(parts.values()), device.capacity_bytes, moment)


def _moments(
    config: RunConfig, facts: ModelFacts, tree: ModuleTree, resolution: Resolution, workload: Workload, precisions: Precisions, trained: int,
) -> dict[str, dict[str, int]]:
    """Give what comes on top of what is always held, at each moment of a step."""
    kept = _kept_by_layers(facts, tree, resolution, workload, precisions, config.adapter.lora_dropout > 0)
    one_layer = max(kept, default=0)
    if config.training.gradient_checkpointing and kept:
        residual = workload.tokens * facts.hidden_size * precisions.base_bytes
        forward, backward = residual * len(kept), residual * len(kept) + 2 * one_layer
    else:
        forward, backward = sum(kept), sum(kept) + one_layer // 2
    around = _kept_around_layers(facts, tree, workload, precisions, trained)
    earlier = trained if config.training.gradient_accumulation_steps > 1 else 0
    return {
        "loss": {"activations": forward + around, "gradients": earlier, "logits_and_loss": workload.trained * facts.vocab_size * _BYTES_A_LOGIT},
        "backward": {"activations": backward + around, "gradients": max(earlier, trained // max(1, len(kept)))},
        "optimizer": {"gradients": trained},
    }


def _trained_bytes(config: RunConfig, tree: ModuleTree, resolution: Resolution, precisions: Precisions) -> int:
    """Give the bytes of everything that trains: adapters in their dtype, copies and biases in the base model's."""
    by_module = count_by_module(config.adapter, tree, resolution)
    in_base = sum(by_module.get(name, 0) for name in resolution.saved_modules)
    in_base += sum(module.out_features or module.own_parameters for module in trained_biases(config.adapter, tree, resolution))
    total = sum(by_module.values())
    return (total - in_base) * BYTES_OF_DTYPE[config.adapter.dtype] + in_base * precisions.base_bytes


def _kept_by_layers(
    facts: ModelFacts, tree: ModuleTree, resolution: Resolution, workload: Workload, precisions: Precisions, dropout: bool,
) -> list[int]:
    """Give the bytes autograd keeps of each layer from the first that needs a gradient on."""
    adapters: dict[int, int] = {}
    for layer, size in _kept_by_adapters(tree, resolution, workload, precisions, dropout):
        adapters[layer] = adapters.get(layer, 0) + size
    for name in resolution.saved_modules:
        adapters.setdefault(layer_of(name) or 0, 0)
    if not adapters:
        return []
    base = workload.tokens * _kept_by_a_token(facts, _first_layer(tree), precisions)
    return [base + adapters.get(layer, 0) for layer in range(min(adapters), max(facts.layers, max(adapters) + 1))]


def _kept_by_adapters(
    tree: ModuleTree, resolution: Resolution, workload: Workload, precisions: Precisions, dropout: bool,
) -> Iterable[tuple[int, int]]:
    """Give (layer, bytes) for what adapters keep: their inputs, which neighbours share unless dropout parts them, and A's output."""
    seen: set[tuple[str, int]] = set()
    for target in resolution.targets:
        module = tree.by_name[target.name]
        layer = layer_of(target.name) or 0
        if target.kind == "experts":
            # PEFT adds the update to the whole stack of experts in every forward pass, and keeps the sum.
            yield layer, module.parameters * precisions.base_bytes
            continue
        if target.kind == "embedding":
            continue
        shared = (module.parent, module.in_features)
        width = target.r * precisions.compute_bytes
        if dropout:
            width += module.in_features * (precisions.compute_bytes + 1)
        elif shared not in seen:
            width += module.in_features * precisions.compute_bytes
            seen.add(shared)
        yield layer, workload.tokens * width


def _kept_by_a_token(facts: ModelFacts, layer: list[ModuleInfo], precisions: Precisions) -> int:
    """Give the bytes one token leaves in one layer, adapters aside."""
    attention = 2 * facts.heads * facts.head_dim + 2 * facts.kv_heads * facts.head_dim
    inner = facts.intermediate_size * max(1, facts.experts_per_token)
    classes = {module.class_name for module in layer}
    gated = any(module.leaf_name in ("gate_proj", "gate_up_proj", "w1") for module in layer)
    # Gated: the gate, its activation, and the up projection. GPT-2's own GELU is written out in five operations.
    tensors = 3 if gated else 5 if "NewGELUActivation" in classes else 1
    return (attention + tensors * inner) * precisions.compute_bytes + 4 * sum(_norm_width(module, facts) for module in layer)


def _norm_width(module: ModuleInfo, facts: ModelFacts) -> int:
    """Give the numbers a norm sees of one token: the stream's width, or every head's."""
    if len(module.shape) != 1 or module.kind != "other":
        return 0
    if module.shape[0] != facts.head_dim or facts.head_dim == facts.hidden_size:
        return module.shape[0]
    return facts.head_dim * (facts.kv_heads if module.leaf_name.startswith("k") else facts.heads)


def _first_layer(tree: ModuleTree) -> list[ModuleInfo]:
    """Give the modules of the first numbered layer."""
    found: list[ModuleInfo] = []
    number: int | None = None
    for module in tree.modules:
        layer = layer_of(module.name)
        if layer is not None and (number is None or layer == number):
            number = layer
            found.append(module)
        elif found and layer is not None:
            break
    return found


def _kept_around_layers(facts: ModelFacts, tree: ModuleTree, workload: Workload, precisions: Precisions, trained: int) -> int:
    """Give what is kept beside the layers: the last norm, the positions the head sees, and weights cast for the products."""
    kept = workload.tokens * facts.hidden_size * 4 + workload.trained * facts.hidden_size * precisions.compute_bytes
    if precisions.base != precisions.compute:
        kept += tree.all_parameters * precisions.compute_bytes
    if precisions.compute != "float32":
        kept += trained // 4 * precisions.compute_bytes
    return kept
