"""The export task: write beside, load again, compare, and only then give the artefact its name."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.files import bytes_below, whole_folder
from lora_studio.export.card import write_card
from lora_studio.export.comparison import Certificate, LogitComparison, judge, model_digests, row_logits
from lora_studio.export.destination import CERTIFICATE_NAME, check_destination
from lora_studio.export.merge import RoundingLoss, finish_merge, merge_by_module
from lora_studio.export.request import check_mergeable, check_request, check_space, needed_folders, written_dtype
from lora_studio.export.rows import ComparisonRows, comparison_rows
from lora_studio.export.source import CONFIG_NAME, WEIGHTS_NAME, AdapterSource
from lora_studio.models.load import load_model, load_tokenizer
from lora_studio.models.prepare import ready_model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class _Work:
    """What one export works with: source, base folder, comparison rows and the logits they must give."""

    source: AdapterSource
    base: Path
    tokenizer: Any
    rows: ComparisonRows
    expected: list[torch.Tensor]
    model: Any

    def take_model(self) -> Any:
        """Hand base + adapter over, so that it is freed before the artefact is loaded beside it."""
        model, self.model = self.model, None
        return model


def export(
    context: TaskContext, source: str, kind: str, to: str, dtype: str | None = None, overwrite: bool = False
) -> Iterator[RunEvent]:
    """Export a run, a checkpoint or a PEFT folder as an adapter folder or a merged model.

    Works in fp32 on the CPU, so it disturbs no training on a GPU and its sums are exact before they are rounded once. The base is the one
    on disk, in full precision, whatever it was held in while the adapter was trained: merged into 4 bits, an update would be lost.

    Args:
        context: The host's.
        source: A run, a checkpoint or any PEFT adapter folder.
        kind: "adapter" or "merged".
        to: The folder to make.
        dtype: Of the merged weights: "float32", "bfloat16", "float16"; None keeps the base's, or
            is float32 where that is none of them.
        overwrite: Whether an earlier export at `to` may be replaced.

    Raises:
        InputError: Source, kind, dtype or target cannot be used; nothing was written.
        StudioError: The artefact did not pass its comparison; it was not kept.
    """
    if not to.strip():
        raise InputError("No folder is named to export to.", "Name the folder to make.", "to")
    target = Path(to).expanduser().resolve()
    found = check_request(source, kind, target, dtype, overwrite=overwrite)
    base = yield from ready_model(context, found.base_name, found.base_revision)
    needed = needed_folders(found, base)
    check_destination(target, overwrite=overwrite, needed=needed)
    if kind == "merged":
        check_mergeable(found, base)
        check_space(base, target, written_dtype(base, dtype))
    work = yield from _load(context, found, base)
    with _told_when_disk_fails(target), whole_folder(target, overwrite=overwrite) as folder:
        if kind == "adapter":
            certificate, written = yield from _export_adapter(context, work, folder)
        else:
            certificate, written = yield from _export_merged(context, work, folder, dtype)
        if not certificate.passed:
            raise _refusal(kind, certificate.reason)
        _write_papers(folder, work, kind, written, certificate)
        size = bytes_below(folder)
        yield Phase(name="saving", message="Writing to disk")
        check_destination(target, overwrite=overwrite, needed=needed)  # someone may have put something there meanwhile
    yield RunFinished(result={
        "path": str(target), "kind": kind, "bytes": size, "dtype": written, "base_quantization": found.base_quantization,
        "certificate": certificate.to_json()})


def _refusal(kind: str, reason: str) -> StudioError:
    hint = "Nothing was kept. Export the adapter instead." if kind == "merged" else "Nothing was kept."
    return StudioError(f"The {kind} export was refused: {reason}.", hint)


@contextlib.contextmanager
def _told_when_disk_fails(target: Path) -> Generator[None]:
    """Turn a full or failing disk into an error a person can act on; nothing half-written stays."""
    try:
        yield
    except OSError as error:
        hint = "Nothing was kept. Free some space or choose another disk, then try again."
        raise StudioError(f"Writing {target} failed: {error.strerror or error}.", hint) from error


def _load(context: TaskContext, source: AdapterSource, base: Path) -> Generator[RunEvent, None, _Work]:
    yield Phase(name="loading", message="Loading base model and adapter")
    tokenizer = load_tokenizer(base)
    model = _with_adapter(load_model(base, torch.float32, torch.device("cpu")), source.adapter)
    rows = comparison_rows(source.config, tokenizer)
    expected: list[torch.Tensor] = []
    for done, logits in enumerate(row_logits(model, rows.rows), start=1):
        context.control.check()
        expected.append(logits)
        yield Phase(name="checking", message="Computing base + adapter", done=done, total=len(rows.rows), unit="rows")
    return _Work(source, base, tokenizer, rows, expected, model)


def _with_adapter(model: Any, adapter: Path) -> Any:
    try:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=False).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        message = f"The adapter {adapter} does not fit this base model: {str(error).splitlines()[0]}"
        raise InputError(message, "Give the base model it was trained on.", "source") from error


def _export_adapter(context: TaskContext, work: _Work, folder: Path) -> Generator[RunEvent, None, tuple[Certificate, str]]:
    work.take_model()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        shutil.copyfile(work.source.adapter / name, folder / name)
    model = _with_adapter(load_model(work.base, torch.float32, torch.device("cpu")), folder)
    found = yield from _compare(context, model, work)
    certificate = judge(found, found, rounded=False, rows_from=work.rows.origin, effect_lost=0.0, changed=(), tensors=0)
    return certificate, _adapter_dtype(folder / WEIGHTS_NAME)


def _export_merged(
    context: TaskContext, work: _Work, folder: Path, dtype: str | None
) -> Generator[RunEvent, None, tuple[Certificate, str]]:
    written = written_dtype(work.base, dtype)
    loss = RoundingLoss(_DTYPES[written])
    merged, exact = yield from _merge_exactly(context, work, loss)
    merged = merged.to(_DTYPES[written])
    digests = model_digests(merged)
    yield Phase(name="saving", message="Writing the merged model")
    context.control.check()
    merged.save_pretrained(folder)
    work.tokenizer.save_pretrained(folder)
    del merged
    gc.collect()
    yield Phase(name="checking", message="Loading the written model again")
    again = AutoModelForCausalLM.from_pretrained(str(folder), dtype=_DTYPES[written], trust_remote_code=False, use_safetensors=True)
    found = model_digests(again)
    changed = sorted(name for name in digests.keys() | found.keys() if digests.get(name) != found.get(name))
    comparison = yield from _compare(context, again.float(), work)
    certificate = judge(
        comparison, exact, rounded=written != "float32", rows_from=work.rows.origin, effect_lost=loss.share, changed=changed,
        tensors=len(digests),
    )
    return certificate, written


def _merge_exactly(context: TaskContext, work: _Work, loss: RoundingLoss) -> Generator[RunEvent, None, tuple[Any, LogitComparison]]:
    """Merge in fp32 and compare before anything is rounded or written: of what differs later, only rounding can be the cause.

    Raises:
        StudioError: The merged model is not base + adapter.
    """
    model = work.take_model()
    for done, total in merge_by_module(model, loss):
        context.control.check()
        yield Phase(name="merging", message="Merging", done=done, total=total, unit="modules")
    merged = finish_merge(model)
    exact = yield from _compare(context, merged, work)
    if exact.fault:
        raise _refusal("merged", exact.fault)
    return merged, exact


def _compare(context: TaskContext, model: Any, work: _Work) -> Generator[RunEvent, None, LogitComparison]:
    comparison = LogitComparison()
    for expected, found in zip(work.expected, row_logits(model, work.rows.rows), strict=True):
        context.control.check()
        comparison.add(expected, found)
        yield Phase(name="checking", message="Comparing with base + adapter", done=comparison.rows, total=len(work.expected), unit="rows")
    return comparison


def _adapter_dtype(weights: Path) -> str:
    from safetensors import safe_open

    with safe_open(str(weights), framework="pt") as tensors:
        names: Sequence[str] = sorted(tensors.keys())
        return str(tensors.get_tensor(names[0]).dtype).removeprefix("torch.") if names else "float32"


def _write_papers(folder: Path, work: _Work, kind: str, dtype: str, certificate: Certificate) -> None:
    (folder / CERTIFICATE_NAME).write_text(json.dumps(certificate.to_json(), indent=2) + "\n", encoding="utf-8")
    write_card(folder, work.source, kind, dtype, certificate.to_json(), work.base)
