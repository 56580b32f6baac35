"""Adapters made from adapters, or from two models: tasks that write an ordinary PEFT folder, certified against what it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_studio.adapters.carried import Carried, all_of, refuse_trained, untrained_of
from lora_studio.adapters.combine import Recipe, combined, dense_combination
from lora_studio.adapters.deltas import Delta, delta_of, effective_rank, rank_for_energy, read_deltas, refuse_beyond_deltas
from lora_studio.adapters.extract import Left, TwoModels
from lora_studio.adapters.interference import interference, verdict
from lora_studio.adapters.saved_adapter import SavedAdapter, parameter_of
from lora_studio.adapters.write_adapter import keys_of, write_adapter
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.files import bytes_below, sha256_of, whole_folder
from lora_studio.export.arithmetic.certificate import ArithmeticCertificate, Errors, write_arithmetic_certificate
from lora_studio.export.destination import alone_at, check_destination, keep_as_failed
from lora_studio.export.redact import public_name
from lora_studio.export.source import WEIGHTS_NAME, AdapterSource, find_source
from lora_studio.export.verify.tokenizer_files import copy_own_tokenizer
from lora_studio.models.peft_names import names_for_peft
from lora_studio.models.prepare import ready_model

Expected = Callable[[str], Tensor]


def combine(
    context: TaskContext,
    sources: Sequence[str],
    to: str,
    method: str = "cat",
    weights: Sequence[float] = (),
    r: int | None = None,
    density: float = 0.5,
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[RunEvent]:
    """Task: combine adapters of one base; result as `adapter … --json`.

    Args:
        context: The host's.
        sources: Runs, checkpoints or adapter folders, two or more.
        to: The folder to make.
        method: See `lora.combine`.
        weights: One a source; 1 each where empty.
        r: Rank of the result.
        density: See `Recipe`.
        seed: See `Recipe`.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        InputError: The adapters do not go together, or are no plain updates.
        StudioError: What was written is not what was meant; it is kept under a name that says so.
    """
    if len(sources) < 2:
        raise InputError("Combining needs two adapters or more.", "Name another one.", "source")
    if weights and len(weights) != len(sources):
        raise InputError(f"There are {len(weights)} weights for {len(sources)} adapters.", "Give one weight for each adapter.", "weights")
    recipe = Recipe(method, tuple(weights) or (1.0,) * len(sources), r, density, seed)
    recipe.check()
    found = [_opened(source) for source in sources]
    _refuse_other_base(found)
    carried = untrained_of([one.adapter for one in found])
    names = sorted({name for one in found for name in one.adapter.pairs})
    deltas: dict[str, Delta] = {}
    for place, name in enumerate(names):
        context.control.check()
        deltas[name] = combined([one.delta(name) for one in found], recipe, place)
        yield Phase(name="merging", message="Combining", done=place + 1, total=len(names), unit="modules")

    def expected(name: str) -> Tensor:
        return dense_combination([one.delta(name) for one in found], recipe, names.index(name))

    ranks = (sum(one.adapter.pairs[name].r for one in found if name in one.adapter.pairs) for name in names)
    exact = method == "cat" and (r is None or all(rank <= r for rank in ranks))
    config, inputs, told = found[0].adapter.config, _inputs(found, recipe.weights), f"combined by {method}"
    yield from _written(context, _Result(to, overwrite, config, deltas, expected, told, exact, inputs, carried=carried))


def cut(
    context: TaskContext, source: str, to: str, r: int | None = None, energy: float | None = None, overwrite: bool = False
) -> Iterator[RunEvent]:
    """Task: cut an adapter to a rank, or to the ranks that keep a share of each module's energy.

    Raises:
        InputError: Neither or both are given, or the adapter is no plain update.
        StudioError: See `combine`.
    """
    _check_size(r, energy)
    one = _opened(source)
    deltas: dict[str, Delta] = {}
    spectra: dict[str, Any] = {}
    for place, (name, delta) in enumerate(read_deltas(one.adapter)):
        context.control.check()
        values = delta.singular_values()
        rank = min(r, len(values)) if r is not None else rank_for_energy(values, energy or 1.0)
        deltas[name] = delta.cut(rank) if rank < delta.rank else delta
        spectra[name] = {"r": deltas[name].rank, "effective_rank": round(effective_rank(values), 3)}
        yield Phase(name="merging", message="Cutting", done=place + 1, total=len(one.adapter.pairs), unit="modules")
    told = f"cut to rank {r}" if r is not None else f"cut to {energy:.1%} of the energy"
    yield from _written(
        context,
        _Result(
            to,
            overwrite,
            one.adapter.config,
            deltas,
            one.dense,
            told,
            exact=False,
            inputs=_inputs([one], (1.0,)),
            more={"spectra": spectra},
            carried=all_of(one.adapter),
        ),
    )


def scale(context: TaskContext, source: str, to: str, by: float = 1.0, overwrite: bool = False) -> Iterator[RunEvent]:
    """Task: change an adapter's strength.

    Raises:
        InputError: The number is none, or the adapter is no plain update.
        StudioError: See `combine`.
    """
    if not math.isfinite(by):
        raise InputError(f"{by} is no strength.", "Give a number, such as 0.5.", "by")
    one = _opened(source)
    carried = untrained_of([one.adapter])
    deltas = {name: delta.times(by) for name, delta in read_deltas(one.adapter)}
    yield Phase(name="merging", message="Scaling")
    yield from _written(
        context,
        _Result(
            to,
            overwrite,
            one.adapter.config,
            deltas,
            lambda name: one.dense(name) * by,
            f"scaled by {by:g}",
            exact=True,
            inputs=_inputs([one], (by,)),
            carried=carried,
        ),
    )


def extract(
    context: TaskContext, base: str, tuned: str, to: str, r: int | None = None, energy: float | None = None, overwrite: bool = False
) -> Iterator[RunEvent]:
    """Task: make a LoRA of what a tuned model changed in its base.

    Raises:
        InputError: The models are not of one family and size, or nothing that a LoRA carries was changed.
        StudioError: See `combine`.
    """
    _check_size(r, energy)
    folders = []
    for name in (base, tuned):
        folders.append((yield from ready_model(context, name, None)))
    models, left = TwoModels(*folders), Left()
    deltas: dict[str, Delta] = {}
    for name, delta in models.extracted(r, energy, left):
        context.control.check()
        deltas[name] = delta
        yield Phase(name="merging", message="Taking changes apart", done=len(deltas), total=len(models.matrices), unit="modules")
    if not deltas:
        raise InputError("The two models have the same matrices.", "Give the base, and a model tuned from it.", "source")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "fan_in_fan_out": models.conv1d}
    more = {"left_out": {"parameters": left.names, "change": math.sqrt(left.change), "carried": math.sqrt(left.carried)}}
    inputs = [{"name": public_name(name), "weight": weight} for name, weight in ((tuned, 1.0), (base, -1.0))]
    told = "extracted by singular values"
    names = names_for_peft(models.model, [key for name in deltas for key in keys_of(name)])
    carried = Carried(names={key: name for key, name in names.items() if name})
    yield from _written(
        context,
        _Result(to, overwrite, config, deltas, models.module_change, told, exact=False, inputs=inputs, more=more, carried=carried),
    )


def compare(context: TaskContext, first: str, second: str) -> Iterator[RunEvent]:
    """Task: set two adapters against each other; result `{"modules": […], "verdict"}`.

    Raises:
        InputError: They are of different bases, or no plain updates.
    """
    one, other = _opened(first), _opened(second)
    _refuse_other_base([one, other])
    for opened in (one, other):
        refuse_trained(opened.adapter)
    common = [name for name in one.adapter.pairs if name in other.adapter.pairs]
    found = []
    for place, name in enumerate(common):
        context.control.check()
        mine, theirs = one.delta(name), other.delta(name)
        assert mine is not None
        assert theirs is not None
        found.append(interference(name, mine, theirs))
        yield Phase(name="checking", message="Comparing", done=place + 1, total=len(common), unit="modules")
    alone = sorted(one.adapter.pairs.keys() ^ other.adapter.pairs.keys())
    yield RunFinished(result={"modules": [entry.to_json() for entry in found], "only_in_one": alone, "verdict": verdict(found)})


@dataclass(frozen=True)
class _Opened:
    """An adapter that is worked with."""

    source: AdapterSource
    adapter: SavedAdapter

    def delta(self, name: str) -> Delta | None:
        if name not in self.adapter.pairs:
            return None
        with self.adapter.reading() as tensors:
            return delta_of(self.adapter, tensors, name)

    def dense(self, name: str) -> Tensor:
        """Return an update by a way of its own: the product first, then the scale."""
        with self.adapter.reading() as tensors:
            a, b = tensors.factors(name)
        return (b.double() @ a.double()) * self.adapter.pairs[name].scale


@dataclass(frozen=True)
class _Result:
    """What is to be written, and what it must be."""

    to: str
    overwrite: bool
    config: Mapping[str, Any]
    deltas: Mapping[str, Delta]
    expected: Expected
    method: str
    exact: bool
    inputs: Sequence[Mapping[str, Any]]
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])
    carried: Carried = field(default_factory=Carried)


def _opened(source: str) -> _Opened:
    found = find_source(source)
    adapter = SavedAdapter.open(found.adapter)
    refuse_beyond_deltas(adapter)
    return _Opened(found, adapter)


def _refuse_other_base(found: Sequence[_Opened]) -> None:
    """See that all adapters are of one base, by name and by the shapes of what they adapt in common."""
    first = found[0]
    for other in found[1:]:
        if public_name(other.source.base_name) != public_name(first.source.base_name):
            raise InputError(
                f"{other.source.label} is an adapter of {public_name(other.source.base_name)}, {first.source.label} of "
                f"{public_name(first.source.base_name)}.",
                "Combine adapters of one base model and vocabulary.",
                "source",
            )
        for name in first.adapter.pairs.keys() & other.adapter.pairs.keys():
            mine, theirs = (_shape(one.adapter, name) for one in (first, other))
            if mine != theirs:
                raise InputError(
                    f"{name} is {mine} in {first.source.label} and {theirs} in {other.source.label}.",
                    "Combine adapters of one base model and vocabulary.",
                    "source",
                )


def _shape(adapter: SavedAdapter, name: str) -> tuple[int, int]:
    pair = adapter.pairs[name]
    return adapter.header.tensors[pair.b_key].shape[0], adapter.header.tensors[pair.a_key].shape[1]


def _check_size(r: int | None, energy: float | None) -> None:
    if (r is None) == (energy is None):
        raise InputError("Give either a rank or a share of the energy.", "For example --r 8, or --energy 0.95.", "r")
    if r is not None and r < 1:
        raise InputError(f"A rank of {r} holds nothing.", "Give a whole number of 1 or more.", "r")
    if energy is not None and not 0 < energy <= 1:
        raise InputError(f"{energy:g} is no share of the energy.", "Give a number above 0, at most 1.", "energy")


def _inputs(found: Sequence[_Opened], weights: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"name": one.source.label, "sha256": sha256_of(one.source.adapter / WEIGHTS_NAME), "weight": weight}
        for one, weight in zip(found, weights, strict=True)
    ]


def _written(context: TaskContext, result: _Result) -> Iterator[RunEvent]:
    """Write the folder beside, read it again, hold every update against what it must be, and only then give it its name."""
    if not result.to.strip():
        raise InputError("No folder is named to write to.", "Name the folder to make.", "to")
    target = Path(result.to).expanduser().resolve()
    check_destination(target, overwrite=result.overwrite)
    try:
        with alone_at(target), whole_folder(target, overwrite=result.overwrite) as folder:
            yield Phase(name="saving", message="Writing the adapter")
            write_adapter(folder, result.config, result.deltas, result.carried)
            if result.carried.tokenizer is not None:
                copy_own_tokenizer(result.carried.tokenizer, folder)
            errors = Errors(altered=_altered(folder, result.carried))
            for done in _compared(folder, result, errors):
                context.control.check()
                yield Phase(name="checking", message="Reading the updates again", done=done, total=len(result.deltas), unit="modules")
            certificate = write_arithmetic_certificate(
                folder, ArithmeticCertificate.of(result.method, errors, exact=result.exact, inputs=result.inputs, more=_more(result))
            )
            if not certificate["passed"]:
                kept = keep_as_failed(folder, target)
                raise StudioError(f"The adapter did not pass: {certificate['reason']}. It is kept as {kept}.", "Do not use it.")
            size = bytes_below(folder)
    except OSError as error:
        raise StudioError(f"Writing {target} failed: {error.strerror or error}.", "Free some space or choose another disk.") from error
    yield RunFinished(result={"path": str(target), "bytes": size, "certificate": certificate})


def _more(result: _Result) -> dict[str, Any]:
    along = sorted(parameter_of(key) for key in result.carried.tensors)
    return {**result.more, **({"carried": along} if along else {})}


def _altered(folder: Path, carried: Carried) -> list[str]:
    """Name what goes along and is not bit for bit as it was in the written file."""
    found: list[str] = []
    with SavedAdapter.open(folder).reading() as tensors:
        for key, (adapter, own) in carried.tensors.items():
            with adapter.reading() as file:
                if not tensors.get(key).equal(file.get(own)):
                    found.append(key)
    return found


def _compared(folder: Path, result: _Result, errors: Errors) -> Iterator[int]:
    """Make every written update whole, and set it against what it must be."""
    again = SavedAdapter.open(folder)
    with again.reading() as tensors:
        for done, name in enumerate(result.deltas, start=1):
            pair = again.pairs.get(name)
            if pair is None:
                errors.missing.append(name)
                continue
            a, b = tensors.factors(name)
            expected = result.expected(name)
            tail = torch.linalg.svdvals(expected)[pair.r :] if not result.exact and min(expected.shape) <= _EXACT_SVD else None
            written = Delta(b.double() * pair.scale, a.double())
            errors.add(name, written, result.deltas[name], expected, None if tail is None else float(tail.square().sum()))
            yield done


_EXACT_SVD = 4096  # up to this smaller side the least possible error of a rank is computed as well
