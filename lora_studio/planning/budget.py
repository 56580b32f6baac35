"""The memory a run needs, before it runs: the largest moment of a step, and what fills it.

A step is looked at as moments, not as a sum of maxima: the loss at the end of the forward pass, the backward pass, the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.core.adapter_file import BYTES_OF_DTYPE
from lora_studio.core.config import RunConfig
from lora_studio.core.counts import bias_parameters, trainable_parameters, trained_biases
from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets import Resolution, resolve
from lora_studio.models.held_weights import quantized_modules, weight_bytes
from lora_studio.planning.activations import StepMemoryModel, Workload
from lora_studio.planning.checkpointing import DEGREES, Checkpointing, kept_at_most_in_backward, kept_at_the_end
from lora_studio.planning.device import Device, find_device
from lora_studio.planning.precision import precisions_of
from lora_studio.planning.tiles import head_tile

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts

# Interpreter, torch, transformers and their buffers: resident memory on a CPU, context and workspaces on a GPU.
_RUNTIME_BYTES = {"cuda": 700_000_000, "mps": 900_000_000, "cpu": 650_000_000}
_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits_and_loss", "runtime")
BARE_HEADS = frozenset({"gpt2", "gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3", "qwen3_moe"})
"""Families whose logits are their head's product as it is, so that the loss can be taken so; of others the worst is assumed."""
# cross_entropy in float32: log-probabilities kept, their gradient, and the gradient of the logits.
_BYTES_A_LOGIT = 12
_HEAD_NAMES = ("lm_head", "embed_out")
_USUAL_TRAINED_SHARE = 0.5


@dataclass(frozen=True)
class MemoryBudget:
    """The memory a run is expected to need at its largest moment.

    Attributes:
        device: Where.
        parts: What fills that moment, in bytes; they add up to `peak_bytes`.
        peak_bytes: The largest moment.
        capacity_bytes: Memory of the device; 0 when unknown.
        moment: Which moment that is: loss, backward or optimizer.
        checkpointing: What is computed again; of `auto`, the least that fits, or all where nothing does.
    """

    device: Device
    parts: dict[str, int]
    peak_bytes: int
    capacity_bytes: int
    moment: str
    checkpointing: Checkpointing

    @property
    def fits(self) -> bool:
        """Whether the device is large enough; an unknown device is taken to be."""
        return not self.capacity_bytes or self.peak_bytes <= self.capacity_bytes

    def to_json(self) -> dict[str, object]:
        """Return the `memory` of `plan --json`."""
        return {
            "device": str(self.device),
            "capacity_bytes": self.capacity_bytes,
            "peak_bytes": self.peak_bytes,
            "fits": self.fits,
            "parts": dict(self.parts),
            **self.checkpointing.settings(),
        }


def workload_of(config: RunConfig, longest: int = 0, trained_share: float = 0.0) -> Workload:
    """Return the largest micro-batch: full of rows as long as the longest known, or as `max_length` allows; packed blocks all are."""
    rows = config.training.per_device_train_batch_size
    known = longest and not config.data.packing
    length = min(longest, config.data.max_length) if known else config.data.max_length
    share = trained_share or (1.0 if config.data.train_on == "all" else _USUAL_TRAINED_SHARE)
    return Workload(rows, length, max(1, round(rows * length * share)))


def estimate_memory(
    config: RunConfig,
    facts: ModelFacts,
    tree: ModuleTree,
    resolution: Resolution | None = None,
    workload: Workload | None = None,
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
    device = device or find_device(config.training.device)
    step = _step(config, facts, tree, resolution, workload or workload_of(config), device)
    trained = _trained_bytes(config, tree, resolution, step.precisions.base_bytes)
    held = {
        "weights": weight_bytes(tree, config.model.quantization, step.precisions.base_bytes, facts.stored),
        "adapter": trained,
        "optimizer": 2 * trained,
        "runtime": _RUNTIME_BYTES.get(device.kind, _RUNTIME_BYTES["cpu"]),
    }
    trainable = trainable_parameters(config.adapter, tree, resolution)
    wanted = Checkpointing.of(config.training)
    budgets = (
        _budget(device, held, _moments(config, step, degree, trained, trainable), degree) for degree in ((wanted,) if wanted else DEGREES)
    )
    found = next(budgets)
    for budget in budgets:
        if found.fits:
            break
        found = budget
    return found


def _step(
    config: RunConfig, facts: ModelFacts, tree: ModuleTree, resolution: Resolution, workload: Workload, device: Device
) -> StepMemoryModel:
    return StepMemoryModel(
        facts,
        tree,
        resolution,
        workload,
        precisions_of(config, facts, device),
        config.adapter.lora_dropout > 0,
        device.kind,
        quantized_modules(tree, config.model.quantization, facts.stored),
    )


def _budget(device: Device, held: dict[str, int], moments: dict[str, dict[str, int]], checkpointing: Checkpointing) -> MemoryBudget:
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    filled = {**held, **moments[moment]}
    parts = {part: filled.get(part, 0) for part in _PARTS}
    return MemoryBudget(device, parts, sum(parts.values()), device.capacity_bytes, moment, checkpointing)


def _moments(
    config: RunConfig,
    step: StepMemoryModel,
    checkpointing: Checkpointing,
    trained_bytes: int,
    trained_parameters: int,
) -> dict[str, dict[str, int]]:
    """Return what comes on top of what is always held, at each moment of a step."""
    kept = step.kept_by_layers
    cast = trained_parameters * step.precisions.compute_bytes if step.precisions.compute != "float32" else 0
    masks = _mask_bytes(step) if config.data.packing and step.device != "cpu" else 0
    around = masks + cast + step.scores
    forward = kept_at_the_end(kept, step.into_a_layer, checkpointing)
    backward = kept_at_most_in_backward(kept, step.into_a_layer, checkpointing) + step.gradients_in_a_layer
    earlier = trained_bytes if config.training.gradient_accumulation_steps > 1 else 0
    return {
        "loss": {"activations": forward + around + step.kept_behind_layers, "gradients": earlier, "logits_and_loss": _loss_bytes(step)},
        "backward": {"activations": backward + around, "gradients": max(earlier, trained_bytes // max(1, len(kept)))},
        "optimizer": {"gradients": trained_bytes},
    }


def _loss_bytes(step: StepMemoryModel) -> int:
    """Return the bytes of the logits that exist at a time, and of what goes into the head with its gradient."""
    trained, vocabulary = step.workload.trained, max(1, step.facts.vocab_size)
    named = [*(target.name for target in step.resolution.targets), *step.resolution.saved_modules]
    own = step.resolution.saved_modules if step.facts.tied_embeddings else ()
    if step.facts.model_type not in BARE_HEADS or own or any(name.endswith(_HEAD_NAMES) for name in named):
        return trained * vocabulary * _BYTES_A_LOGIT
    positions, words = head_tile(step.device, vocabulary)
    hidden, size = step.facts.hidden_size, step.precisions.compute_bytes
    cast = vocabulary * hidden * size if step.precisions.base != step.precisions.compute else 0
    full = size + (4 if size < 4 else 0)  # in float32 too, where the product is not
    a_position = min(words, vocabulary) * full + 2 * hidden * (4 + full)
    return min(trained, positions) * a_position + 2 * trained * hidden * size + cast


def _mask_bytes(step: StepMemoryModel) -> int:
    """Return the bytes of a block's attention mask: one of true and false, and the same as numbers that attention adds."""
    return step.workload.rows * step.workload.length**2 * (1 + step.precisions.compute_bytes)


def _trained_bytes(config: RunConfig, tree: ModuleTree, resolution: Resolution, base_bytes: int) -> int:
    """Return the bytes of everything that trains: adapters in their dtype, copies and biases in no less than float32."""
    in_base = sum(tree.by_name[name].parameters for name in resolution.saved_modules)
    in_base += sum(bias_parameters(module) for module in trained_biases(config.adapter, tree, resolution))
    in_adapter = trainable_parameters(config.adapter, tree, resolution) - in_base
    return in_adapter * BYTES_OF_DTYPE[config.adapter.dtype] + in_base * max(4, base_bytes)
