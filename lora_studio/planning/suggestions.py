"""Ways to make a step smaller, each with its price: the memory it saves, and the time it costs where arithmetic tells. Light."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from lora_studio.core.config import RunConfig
from lora_studio.models.held_weights import quantized_modules
from lora_studio.models.quantization import NF4, NONE
from lora_studio.planning.activations import Workload
from lora_studio.planning.budget import MemoryBudget
from lora_studio.planning.checkpointing import Checkpointing, degrees_beyond
from lora_studio.planning.costs import Costs
from lora_studio.planning.precision import precisions_of

_BATCH, _ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
_CHECKPOINTING = "training.gradient_checkpointing"
_SHORTEST = 32


@dataclass(frozen=True)
class MemorySuggestion:
    """One change of settings that makes a step smaller.

    Attributes:
        changes: What to set, by dotted path.
        saved_bytes: How much less memory a step then needs.
        slower: How much more arithmetic it does, 0.3 for 30%; 0 where it does no more, or nobody knows.
        fits: Whether it is enough.
    """

    changes: Mapping[str, object]
    saved_bytes: int
    slower: float
    fits: bool

    def __str__(self) -> str:
        """Say it as "gradient_checkpointing full: −3.1 GB, about 30% slower"."""
        what = " and ".join(f"{path.rpartition('.')[2]} {value}" for path, value in self.changes.items())
        time = f", about {self.slower:.0%} slower" if self.slower >= 0.005 else ""
        return f"{what}: −{_size(self.saved_bytes)}{time}"

    def to_json(self) -> dict[str, object]:
        """Return one of the `cures` of `plan --json`."""
        return {"changes": dict(self.changes), "saved_bytes": self.saved_bytes, "slower": round(self.slower, 4), "fits": self.fits}


def cures(costs: Costs, workload: Workload) -> list[MemorySuggestion]:
    """Return the ways to make a step smaller than the one of this largest micro-batch, those first that are enough, the cheapest first.

    Each is a change by itself, as small as is enough, or as large as it goes.
    """
    before = costs.memory(workload)
    found: list[MemorySuggestion] = []
    for kind in _candidates(costs, workload, before.checkpointing):
        cure = None
        for candidate in kind:
            cure = _priced(costs, workload, before, candidate)
            if cure.fits:
                break
        if cure is not None and cure.saved_bytes > 0:
            found.append(cure)
    return sorted(found, key=lambda cure: (not cure.fits, cure.slower, -cure.saved_bytes))


def priced_suggestions(costs: Costs) -> Callable[[int], list[str]]:
    """Return what names the ways out, with their prices, once not even one row of so many tokens fits.

    The estimate has been too low then, so no way is called enough: all layers computed again, and of anything else half.
    """

    def ways(length: int) -> list[str]:
        workload = Workload(1, length, length)
        before = costs.memory(workload)
        kinds = [list(kind) for kind in _candidates(costs, workload, before.checkpointing)]
        chosen = [kind[-1] if _CHECKPOINTING in kind[-1][0] else kind[0] for kind in kinds if kind]
        priced = [_priced(costs, workload, before, candidate) for candidate in chosen]
        return [str(cure) for cure in sorted(priced, key=lambda cure: -cure.saved_bytes) if cure.saved_bytes > 0]

    return ways


def _priced(costs: Costs, workload: Workload, before: MemoryBudget, candidate: _Candidate) -> MemorySuggestion:
    changes, smaller = candidate
    changed = costs.under(changes)
    after = changed.memory(smaller)
    spent, spends = costs.flops(workload, before.checkpointing), changed.flops(smaller, after.checkpointing)
    slower = spends / smaller.tokens / (spent / workload.tokens) - 1
    return MemorySuggestion(changes, before.peak_bytes - after.peak_bytes, max(0.0, slower), after.fits)


_Candidate = tuple[Mapping[str, object], Workload]


def _candidates(costs: Costs, workload: Workload, checkpointing: Checkpointing) -> Iterator[Iterator[_Candidate]]:
    """Return the kinds of change that are left, each from its mildest form on."""
    config = costs.config
    yield _smaller_batches(config, workload)
    yield (({f"training.{name}": value for name, value in degree.settings().items()}, workload) for degree in degrees_beyond(checkpointing))
    yield _shorter_rows(workload)
    packed = costs.facts.stored is not None and costs.facts.stored.stays_packed
    if config.model.quantization == NONE and not packed and quantized_modules(costs.tree, NF4):
        yield iter([({"model.quantization": NF4}, workload)])
    if precisions_of(config, costs.facts, costs.device).base == "float32" and costs.device.quick_bfloat16:
        yield iter([({"model.dtype": "bfloat16", "training.compute_dtype": "auto"}, workload)])
    yield (({"adapter.r": r}, workload) for r in _halves(config.adapter.r, 1))


def _smaller_batches(config: RunConfig, workload: Workload) -> Iterator[_Candidate]:
    rows, steps = workload.rows, config.training.gradient_accumulation_steps
    for fewer in _halves(rows, 1):
        changes = {_BATCH: fewer, _ACCUMULATION: -(-steps * rows // fewer)}
        yield changes, replace(workload, rows=fewer, trained=max(1, workload.trained * fewer // rows))


def _shorter_rows(workload: Workload) -> Iterator[_Candidate]:
    for length in _halves(workload.length, _SHORTEST):
        trained = max(1, workload.trained * length // workload.length)
        yield {"data.max_length": length}, replace(workload, length=length, trained=trained)


def _halves(number: int, least: int) -> Iterator[int]:
    while number // 2 >= least:
        number //= 2
        yield number


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.2g} MB"
