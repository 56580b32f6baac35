"""What base + adapter answers, by PEFT: the logits every artefact is compared with; one model and three sets of logits are held."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from peft import PeftModel
from torch import Tensor

from lora_studio.adapters.put_on import put_on
from lora_studio.adapters.vocabulary import resize_vocabulary
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.export.verify.comparison import LogitComparison
from lora_studio.export.verify.precision import ComparisonPrecision
from lora_studio.export.verify.rows import ComparisonRows
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import auto_class, load_config
from lora_studio.models.load import load_model

if TYPE_CHECKING:
    from lora_studio.core.control import TaskContext

_BYTES_A_LOGIT = 24  # two sets in float64, two in float32
_ROOM = 1.15  # of the weights' size, for activations and a layer being merged
_SOME = 2  # rows on which noise is measured, and PEFT's merge


@dataclass
class Reference:
    """Logits of rows, positions × vocabulary each.

    Attributes:
        rows: The rows.
        precision: How they were computed; an artefact is computed so too.
        expected: Of base + adapter.
        base: Of the base alone, in float32.
        rounded: Of PEFT's merge rounded as the artefact is; the same as `expected` where nothing is merged.
        trained: Of base + adapter with the base in fewer bits, where it was trained so and that can be computed here; in float32.
        noise: How far base + adapter, computed in another order, is from itself.
        merged: How far PEFT's merge, not rounded, is from base + adapter; None where nothing is merged.
    """

    rows: ComparisonRows
    precision: ComparisonPrecision
    expected: list[Tensor] = field(default_factory=list[Tensor])
    base: list[Tensor] = field(default_factory=list[Tensor])
    rounded: list[Tensor] = field(default_factory=list[Tensor])
    trained: list[Tensor] = field(default_factory=list[Tensor])
    noise: LogitComparison = field(default_factory=LogitComparison)
    merged: LogitComparison | None = None

    @property
    def limit(self) -> float:
        """How far a right artefact may be from PEFT's merge rounded alike, whose weights it has bit for bit."""
        return self.precision.limit(self.noise.largest, self.noise.scale)

    @property
    def merge_fault(self) -> str:
        """Say that PEFT's merge is another function than base + adapter; empty where it is not.

        Where experts are chosen, noise of float32 may choose another one at some positions: what half of the positions show is no noise.
        """
        if self.merged is None:
            return ""
        limit = self.precision.limit(self.noise.typical, self.noise.scale)
        apart = self.merged.typical if self.merged.finite else math.inf
        if apart <= limit:
            return ""
        return f"PEFT's merge is another function than base + adapter: their logits differ by {apart:.2e} at half of the positions"


@dataclass
class Compared:
    """What separates an artefact's logits from others.

    Attributes:
        reference: Those others.
        expected: From those of base + adapter.
        exact: From those of PEFT's merge rounded alike.
        trained: From those of base + adapter with the base held as it was trained.
    """

    reference: Reference
    expected: LogitComparison = field(default_factory=LogitComparison)
    exact: LogitComparison = field(default_factory=LogitComparison)
    trained: LogitComparison | None = None

    @property
    def fault(self) -> str:
        """Say what is wrong with the artefact's logits; empty where nothing is."""
        limit = self.reference.limit
        if self.reference.merge_fault or self.exact.largest <= limit:
            return self.reference.merge_fault
        meant = "base + adapter" if self.reference.merged is None else "base + adapter merged and rounded alike"
        in_what = f"in {self.reference.precision.name}, where right ones differ by less than {limit:.0e}"
        return f"its logits differ by {self.exact.largest:.2e} from {meant}, {in_what}"


def fits_memory(base: Path, bytes_each: int = 4) -> bool:
    """Return whether a model can be loaded here and run, beside what is running already.

    Args:
        base: Its folder.
        bytes_each: Of a weight: 4 in float32, 8 in float64.
    """
    facts = read_facts(base)
    return (facts.parameters or facts.bytes_on_disk // 2) * bytes_each * _ROOM < psutil.virtual_memory().available


def with_adapter(model: Any, adapter: Path, resized: Mapping[str, int], *, as_anyone: bool = False) -> Any:
    """Put an adapter on a loaded base, every tensor where it belongs; or `as_anyone` would, by `PeftModel.from_pretrained` alone.

    Raises:
        InputError: It does not fit.
    """
    resize_vocabulary(model, max(resized.values(), default=0))
    try:
        return (PeftModel.from_pretrained(model, str(adapter), is_trainable=False) if as_anyone else put_on(model, adapter)).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        message = f"The adapter {adapter} does not fit this base model: {str(error).splitlines()[0]}"
        raise InputError(message, "Give the base model it was trained on.", "source") from error


@dataclass(frozen=True)
class ReferenceParts:
    """What an artefact is made from.

    Attributes:
        base: The base model's folder.
        adapter: The adapter's.
        resized: See `Changes`.
        prepare: Changes the loaded base before the adapter goes on it.
    """

    base: Path
    adapter: Path
    resized: Mapping[str, int] = field(default_factory=dict[str, int])
    prepare: Callable[[Any], None] = lambda _model: None

    def load(self) -> Any:
        """Load base + adapter in float32."""
        model: Any = load_model(self.base, torch.float32, torch.device("cpu"), unpack=True)
        self.prepare(model)
        return with_adapter(model, self.adapter, self.resized)


def reference_of(
    context: TaskContext, parts: ReferenceParts, rows: ComparisonRows, dtypes: Mapping[str, torch.dtype] | None, *, exact: bool = True
) -> Generator[RunEvent, None, Reference]:
    """Compute the logits that an artefact is held against.

    Args:
        context: The host's.
        parts: What it is made from.
        rows: What to compare on.
        dtypes: How the merged parameters are rounded, by name; None where nothing is merged.
        exact: Whether to compute in float64 where that fits, and to measure noise; else in float32.
    """
    yield Phase(name="loading", message="Loading base model and adapter")
    model = parts.load()
    is_wide = exact and bool(rows.rows) and fits_memory(parts.base, 8)
    precision = ComparisonPrecision.of(model, rows.rows[0]) if is_wide else ComparisonPrecision(wide=False)
    found = Reference(rows, precision)
    with model.disable_adapter():
        yield from _compute(context, model, found, found.base, "Computing the base alone", narrow=True)
    yield from _compute(context, model, found, found.expected, "Computing base + adapter")
    found.rounded = found.expected
    if exact:
        yield from _measure_noise(context, model, found)
    if dtypes is not None:
        model = model.merge_and_unload(safe_merge=True)
        yield from _compare_merge(context, model, found)
        if precision.wide:  # what is written is PEFT's merge in float32
            del model
            gc.collect()
            model = parts.load().merge_and_unload(safe_merge=True)
        _round(model, dtypes)
        found.rounded = []
        yield from _compute(context, precision.take(model), found, found.rounded, "Computing the merge as it is written")
    del model
    gc.collect()
    return found


def _measure_noise(context: TaskContext, model: Any, found: Reference) -> Iterator[RunEvent]:
    """Compute some rows in another order."""
    for number, row in enumerate(found.rows.rows[:_SOME]):
        context.control.check()
        found.noise.add(found.expected[number], found.precision.logits(model, row, reordered=True))
        yield Phase(name="checking", message="Measuring the noise", done=number + 1, total=_SOME, unit="rows")


def _compare_merge(context: TaskContext, merged: Any, found: Reference) -> Iterator[RunEvent]:
    """Hold PEFT's merge, before anything is rounded, against base + adapter on some rows."""
    found.merged = LogitComparison()
    for number, row in enumerate(found.rows.rows[:_SOME]):
        context.control.check()
        found.merged.add(found.expected[number], found.precision.logits(merged, row))
        yield Phase(name="checking", message="Computing PEFT's merge", done=number + 1, total=_SOME, unit="rows")


def trained_logits(
    context: TaskContext, base: Path, adapter: Path, quantization: str, reference: Reference, resized: Mapping[str, int]
) -> Generator[RunEvent]:
    """Compute what base + adapter answer with the base in fewer bits, as it was trained, into `reference.trained`."""
    yield Phase(name="loading", message="Loading the base as it was held in training")
    model = with_adapter(load_model(base, torch.float32, torch.device("cpu"), quantization), adapter, resized)
    as_trained = Reference(reference.rows, ComparisonPrecision(wide=False))
    yield from _compute(context, model, as_trained, reference.trained, "Computing the base as it was held + adapter")


def compare_with(context: TaskContext, model: Any, reference: Reference) -> Generator[RunEvent, None, Compared]:
    """Compare a loaded artefact, in float32, row by row."""
    compared = Compared(reference, trained=LogitComparison() if reference.trained else None)
    rows = reference.rows.rows
    model = reference.precision.take(model)
    for number, row in enumerate(rows):
        context.control.check()
        found = reference.precision.logits(model, row)
        compared.expected.add(reference.expected[number], found, reference.base[number])
        compared.exact.add(reference.rounded[number], found)
        if compared.trained is not None:
            compared.trained.add(reference.trained[number], found)
        yield Phase(name="checking", message="Comparing with base + adapter", done=number + 1, total=len(rows), unit="rows")
    return compared


def load_artefact(folder: Path) -> Any:
    """Load a written model again as anyone would, to compute in float32, so that only its weights' rounding shows."""
    made_by = auto_class(load_config(folder))
    model: Any = made_by.from_pretrained(str(folder), dtype=torch.float32, trust_remote_code=False, use_safetensors=True)
    return model.eval()


def _compute(
    context: TaskContext, model: Any, reference: Reference, into: list[Tensor], message: str, *, narrow: bool = False
) -> Generator[RunEvent]:
    rows = reference.rows.rows
    for done, row in enumerate(rows, start=1):
        context.control.check()
        logits = reference.precision.logits(model, row)
        into.append(logits.float() if narrow else logits)
        yield Phase(name="checking", message=message, done=done, total=len(rows), unit="rows")


def _round(merged: Any, dtypes: Mapping[str, torch.dtype]) -> None:
    """Round every parameter once."""
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            parameter.copy_(parameter.to(dtypes.get(name, torch.float32)))


def most_tokens(rows: int, vocabulary: int) -> int:
    """Say how many tokens of each row are compared, so that the logits held stay below some 700 MB."""
    return max(8, 700_000_000 // (_BYTES_A_LOGIT * max(1, rows) * max(1, vocabulary)))
