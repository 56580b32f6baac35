"""What a config comes to before it runs: targets, parameters, file size, memory, and what a person should know. Light."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from lora_studio.core.adapter_file import adapter_bytes
from lora_studio.core.config import RunConfig
from lora_studio.core.counts import all_parameters, trainable_parameters
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets import Resolution, resolve
from lora_studio.models.full_precision import full_precision_of
from lora_studio.models.held_weights import saved_modules_finding
from lora_studio.models.quantization import quantization_finding
from lora_studio.models.stored_quantization import stored_finding, stored_note
from lora_studio.planning.activations import Workload
from lora_studio.planning.budget import MemoryBudget, workload_of
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.planning.costs import Costs
from lora_studio.planning.device import Device, find_device
from lora_studio.planning.limits import limit_findings
from lora_studio.planning.precision import precisions_of
from lora_studio.planning.suggestions import MemorySuggestion, cures

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts

_LEARNING_RATES = (1e-5, 2e-3)


class TokenFigures(Protocol):
    """Tokens of a data set, as `data.report.TokenCounts` has them."""

    @property
    def total(self) -> int:
        """Tokens of all rows."""
        ...

    @property
    def trained(self) -> int:
        """Those of them that are learned."""
        ...

    @property
    def max(self) -> int:
        """Longest row, before cutting."""
        ...


class DataFigures(Protocol):
    """What a plan takes from `data.report.DataReport`."""

    @property
    def rows(self) -> int:
        """Sound rows."""
        ...

    @property
    def tokens(self) -> TokenFigures:
        """Token counts."""
        ...

    @property
    def truncated_rows(self) -> int:
        """Rows cut to `max_length`."""
        ...

    @property
    def untrained_rows(self) -> int:
        """Rows with nothing to learn."""
        ...

    @property
    def findings(self) -> Sequence[Finding]:
        """What the chat template made of the rows."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a config comes to.

    Attributes:
        resolution: Its targets, each with rank and alpha.
        trainable_parameters: PEFT's first number.
        all_parameters: PEFT's second number.
        adapter_bytes: Size of `adapter_model.safetensors`.
        memory: The memory of a step.
        findings: What is wrong or worth knowing.
        cures: Where a step does not fit, what would make it smaller, each with its price.
    """

    resolution: Resolution
    trainable_parameters: int
    all_parameters: int
    adapter_bytes: int
    memory: MemoryBudget
    findings: tuple[Finding, ...]
    cures: tuple[MemorySuggestion, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return `plan --json`; `cures` are in it where there are some."""
        return {
            "targets": [target.name for target in self.resolution.targets],
            "trainable_parameters": self.trainable_parameters,
            "all_parameters": self.all_parameters,
            "adapter_bytes": self.adapter_bytes,
            "memory": self.memory.to_json(),
            "findings": [finding.to_json() for finding in self.findings],
            **({"cures": [cure.to_json() for cure in self.cures]} if self.cures else {}),
        }


def make_plan(
    config: RunConfig,
    facts: ModelFacts,
    tree: ModuleTree,
    data: DataFigures | None = None,
    device: Device | None = None,
    resolution: Resolution | None = None,
    found: Sequence[Finding] = (),
) -> Plan:
    """Work out what a config comes to on a model; what is wrong is in `findings`, nothing is raised.

    Args:
        config: The run.
        facts: Sizes of the base model.
        tree: Its modules.
        data: Token counts of the data, where known; without them rows of `max_length` are assumed.
        device: Where it would run; None looks for the one the config means.
        resolution: What the adapter's settings come to, where known.
        found: What is known already and told with the rest, such as that of the adapter to begin from.
    """
    resolution = resolution or resolve(config.adapter, tree)
    device = device or find_device(config.training.device)
    workload = _workload(config, data)
    costs = Costs(config, facts, tree, device, resolution)
    memory = costs.memory(workload)
    ways = () if memory.fits else tuple(cures(costs, workload))
    precisions = precisions_of(config, facts, device)
    longest = min(data.tokens.max, config.data.max_length) if data else 0
    findings = [
        *resolution.findings,
        *found,
        *limit_findings(precisions.base, precisions.compute, facts, tree, longest),
        *_quantization_findings(costs, memory),
        *_settings_findings(config, tree, resolution),
        *_data_findings(config, data),
        *_memory_findings(costs, memory, ways, workload),
    ]
    return Plan(
        resolution,
        trainable_parameters(config.adapter, tree, resolution),
        all_parameters(config.adapter, tree, resolution),
        adapter_bytes(config.adapter, tree, resolution, precisions.base),
        memory,
        tuple(findings),
        ways,
    )


def _workload(config: RunConfig, data: DataFigures | None) -> Workload:
    if data is None or not data.tokens.total:
        return workload_of(config)
    return workload_of(config, data.tokens.max, data.tokens.trained / data.tokens.total)


def _settings_findings(config: RunConfig, tree: ModuleTree, resolution: Resolution) -> Iterator[Finding]:
    low, high = _LEARNING_RATES
    rate = config.training.learning_rate
    if not low <= rate <= high:
        yield Finding(
            "warning",
            "learning_rate_unusual",
            f"learning_rate {rate:g} is {'high' if rate > high else 'low'} for LoRA.",
            "Usual: 1e-4 to 5e-4.",
            "training.learning_rate",
        )
    oversized = [target for target in resolution.targets if target.r > _smaller_side(target.name, tree)]
    if oversized:
        first = oversized[0]
        others = f" and {len(oversized) - 1} more" if len(oversized) > 1 else ""
        yield Finding(
            "warning",
            "rank_over_dimension",
            f"r {first.r} is more than the rank {_smaller_side(first.name, tree)} that {first.name}{others} can have.",
            "A smaller r trains the same with fewer parameters.",
            "adapter.r",
        )
    differing = sum(target.r != resolution.adapter.r or target.lora_alpha != resolution.adapter.lora_alpha for target in resolution.targets)
    if differing:
        message = f"{differing} of {len(resolution.targets)} modules have a rank or alpha of their own."
        yield Finding("note", "overrides", message, "", "adapter.rank_pattern")
    if config.adapter.bias != "none":
        yield Finding(
            "note",
            "bias_changes_base",
            f"bias: {config.adapter.bias} trains biases of the base model itself.",
            "Switched off, the adapter does not give the base back.",
            "adapter.bias",
        )


def _smaller_side(name: str, tree: ModuleTree) -> int:
    module = tree.by_name[name]
    return min(module.in_features, module.out_features)


def _quantization_findings(costs: Costs, memory: MemoryBudget) -> Iterator[Finding]:
    quantization, stored = costs.config.model.quantization, costs.facts.stored
    refused = quantization_finding(quantization, costs.device.kind) or base_finding(costs.config, costs.facts, costs.device.kind)
    held = precisions_of(costs.config, costs.facts, costs.device).base
    note = None if refused else stored_note(stored, quantization, held, memory.parts["weights"])
    for found in (refused, saved_modules_finding(quantization, costs.tree, costs.resolution.saved_modules, stored), note):
        if found is not None:
            yield found


def base_finding(config: RunConfig, facts: ModelFacts, device: str) -> Finding | None:
    """Say why a base that is quantized already cannot be trained on so; None where it can, or is not quantized.

    Args:
        config: The run.
        facts: Of the base model.
        device: Kind of the device: cuda, mps or cpu.
    """
    stored = facts.stored
    if stored is None:
        return None
    known = replace(stored, full_precision=full_precision_of(config.model.name_or_path) or stored.full_precision)
    sharded = config.training.num_processes > 1 and config.training.distributed_type == "fsdp2"
    if stored.stays_packed and sharded:
        message = f"A base held in {stored.said} is not cut up among processes."
        return Finding("error", "quantized_sharded", message, "Set distributed_type to ddp.", "training.distributed_type")
    return stored_finding(known, config.model.quantization, device)


def _memory_findings(costs: Costs, memory: MemoryBudget, ways: Sequence[MemorySuggestion], workload: Workload) -> Iterator[Finding]:
    if not memory.fits:
        told = f" Each by itself: {'; '.join(str(cure) for cure in ways)}." if ways else ""
        yield Finding(
            "warning",
            "memory_over_capacity",
            f"A step needs about {memory.peak_bytes / 1e9:.1f} GB, and the {memory.device.kind} has {memory.capacity_bytes / 1e9:.1f} GB.",
            f"{_way_to_fit(costs, memory, workload)}{told}",
            "training.per_device_train_batch_size",
        )
    elif costs.config.training.gradient_checkpointing == "auto" and memory.checkpointing.every:
        yield Finding("note", "checkpointing_taken", taken_message(costs, memory, workload), "", "training.gradient_checkpointing")


def taken_message(costs: Costs, memory: MemoryBudget, workload: Workload) -> str:
    """Say what `gradient_checkpointing: auto` took, and what that saves and costs."""
    without = costs.under({"training.gradient_checkpointing": "off"})
    saved = without.memory(workload).peak_bytes - memory.peak_bytes
    off = Checkpointing.of(without.config.training)
    assert off is not None
    slower = costs.flops(workload, memory.checkpointing) / costs.flops(workload, off) - 1
    what = f"gradient_checkpointing auto takes {memory.checkpointing}, the least that fits"
    return f"{what}: −{saved / 1e9:.1f} GB, about {slower:.0%} slower."


def _way_to_fit(costs: Costs, memory: MemoryBudget, workload: Workload) -> str:
    """Name the mildest change that makes it fit: smaller micro-batches, then all layers computed again, then both."""
    config, rows = costs.config, workload.rows
    steps, full = config.training.gradient_accumulation_steps, {"training.gradient_checkpointing": "full"}
    for changes in ({}, full) if memory.checkpointing.every != 1 else ({},):
        changed, smaller = costs.under(changes), rows
        while smaller >= 1:
            if changed.memory(Workload(smaller, workload.length, max(1, workload.trained * smaller // rows))).fits:
                split = f"a batch size of {smaller} and accumulation of {steps * rows // smaller}" if smaller < rows else ""
                switch = "gradient_checkpointing full" if changes else ""
                return f"It fits with {' and '.join(part for part in (split, switch) if part)}."
            smaller //= 2
    return "No batch size fits."


def _data_findings(config: RunConfig, data: DataFigures | None) -> Iterator[Finding]:
    if config.data.packing:
        yield Finding(
            "note",
            "batch_of_blocks",
            f"With packing, a step takes {config.training.rows_per_step} blocks of {config.data.max_length} tokens, several rows in each.",
            "",
            "data.packing",
        )
    if data is None:
        return
    if data.truncated_rows:
        yield Finding(
            "warning",
            "rows_cut",
            f"{data.truncated_rows} of {data.rows} rows are cut to max_length, {config.data.max_length} tokens.",
            f"The longest has {data.tokens.max}.",
            "data.max_length",
        )
    if data.untrained_rows:
        yield Finding(
            "warning",
            "rows_untrained",
            f"{data.untrained_rows} of {data.rows} rows have no trained token and are left out.",
            "Raise max_length, or look at the rows' answers.",
            "data.max_length",
        )
    yield from data.findings
