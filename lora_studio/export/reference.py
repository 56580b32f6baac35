"""What base + adapter answers, by PEFT: the logits every artefact is compared with; one model and three sets of logits are held."""

from __future__ import annotations

import gc
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from peft import PeftModel
from torch import Tensor

from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.export.comparison import LogitComparison, row_logits
from lora_studio.export.rows import ComparisonRows
from lora_studio.lora.vocabulary import resize_vocabulary
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import auto_class, load_config
from lora_studio.models.load import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lora_studio.core.control import TaskContext

_SETS = 4
_ROOM = 1.15  # of the weights' size, for activations and a layer being merged


@dataclass
class Reference:
    """Logits of rows, positions × vocabulary each.

    Attributes:
        rows: The rows.
        expected: Of base + adapter.
        base: Of the base alone.
        rounded: Of PEFT's merge rounded as the artefact is; the same as `expected` where nothing is rounded.
        trained: Of base + adapter with the base in fewer bits, where it was trained so and that can be computed here.
    """

    rows: ComparisonRows
    expected: list[Tensor] = field(default_factory=list[Tensor])
    base: list[Tensor] = field(default_factory=list[Tensor])
    rounded: list[Tensor] = field(default_factory=list[Tensor])
    trained: list[Tensor] = field(default_factory=list[Tensor])


@dataclass
class Compared:
    """What separates an artefact's logits from others.

    Attributes:
        expected: From those of base + adapter.
        exact: From those of PEFT's merge rounded alike.
        trained: From those of base + adapter with the base held as it was trained.
    """

    expected: LogitComparison = field(default_factory=LogitComparison)
    exact: LogitComparison = field(default_factory=LogitComparison)
    trained: LogitComparison | None = None


def fits_memory(base: Path) -> bool:
    """Say whether a model can be loaded here in float32 and run, beside what is running already."""
    facts = read_facts(base)
    return (facts.parameters or facts.bytes_on_disk // 2) * 4 * _ROOM < psutil.virtual_memory().available


def with_adapter(model: Any, adapter: Path, resized: Mapping[str, int]) -> Any:
    """Put an adapter on a loaded base, as anyone would: `PeftModel.from_pretrained`.

    Raises:
        InputError: It does not fit.
    """
    resize_vocabulary(model, max(resized.values(), default=0))
    try:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=False).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        message = f"The adapter {adapter} does not fit this base model: {str(error).splitlines()[0]}"
        raise InputError(message, "Give the base model it was trained on.", "source") from error


def reference_of(
    context: TaskContext, base: Path, adapter: Path, rows: ComparisonRows, resized: Mapping[str, int],
    dtypes: Mapping[str, torch.dtype] | None, prepare: Callable[[Any], None] = lambda _model: None,
) -> Generator[RunEvent, None, Reference]:
    """Compute the logits that an artefact is held against.

    Args:
        context: The host's.
        base: The base model's folder.
        adapter: The adapter's.
        rows: What to compare on.
        resized: See `Changes`.
        dtypes: How the artefact's parameters are rounded, by name; None where none is.
        prepare: Changes the loaded base before the adapter goes on it.
    """
    yield Phase(name="loading", message="Loading base model and adapter")
    model: Any = load_model(base, torch.float32, torch.device("cpu"), unpack=True)
    prepare(model)
    model = with_adapter(model, adapter, resized)
    found = Reference(rows)
    with model.disable_adapter():
        yield from _compute(context, model, rows, found.base, "Computing the base alone")
    yield from _compute(context, model, rows, found.expected, "Computing base + adapter")
    found.rounded = found.expected
    if dtypes is not None:
        model = _rounded(model, dtypes)
        found.rounded = []
        yield from _compute(context, model, rows, found.rounded, "Computing the rounded merge")
    del model
    gc.collect()
    return found


def trained_logits(
    context: TaskContext, base: Path, adapter: Path, quantization: str, reference: Reference, resized: Mapping[str, int]
) -> Generator[RunEvent]:
    """Compute what base + adapter answer with the base in fewer bits, as it was trained, into `reference.trained`."""
    yield Phase(name="loading", message="Loading the base as it was held in training")
    model = with_adapter(load_model(base, torch.float32, torch.device("cpu"), quantization), adapter, resized)
    yield from _compute(context, model, reference.rows, reference.trained, "Computing the base as it was held + adapter")


def compare_with(
    context: TaskContext, model: Any, reference: Reference
) -> Generator[RunEvent, None, Compared]:
    """Compare a loaded artefact row by row."""
    compared = Compared(trained=LogitComparison() if reference.trained else None)
    rows = reference.rows.rows
    for number, found in enumerate(row_logits(model, rows)):
        context.control.check()
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
    context: TaskContext, model: Any, rows: ComparisonRows, into: list[Tensor], message: str
) -> Generator[RunEvent]:
    for done, logits in enumerate(row_logits(model, rows.rows), start=1):
        context.control.check()
        into.append(logits)
        yield Phase(name="checking", message=message, done=done, total=len(rows.rows), unit="rows")


def _rounded(model: Any, dtypes: Mapping[str, torch.dtype]) -> Any:
    """Merge by PEFT's own code, and round every parameter once."""
    merged = model.merge_and_unload(safe_merge=True)
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            parameter.copy_(parameter.to(dtypes.get(name, torch.float32)))
    return merged


def most_tokens(rows: int, vocabulary: int) -> int:
    """Say how many tokens of each row are compared, so that the logits held stay below some 700 MB."""
    return max(8, 700_000_000 // (_SETS * 4 * max(1, rows) * max(1, vocabulary)))
