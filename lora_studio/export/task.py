"""The export task: write beside, load again, compare, and only then give the artefact its name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import __version__ as peft_version

from lora_studio.adapters.portable_config import portable
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import Notice, Phase, RunEvent, RunFinished
from lora_studio.core.files import bytes_below, sha256_of, whole_folder
from lora_studio.export.card.card import public_name, write_card
from lora_studio.export.card.compatibility import compatibility, merged_compatibility
from lora_studio.export.card.loading import THIS_FOLDER
from lora_studio.export.card.other_class import other_class
from lora_studio.export.context import ExportContext
from lora_studio.export.destination import alone_at, check_destination, keep_as_failed
from lora_studio.export.export_format import ExportFormat
from lora_studio.export.gguf.export import make_gguf, make_gguf_adapter
from lora_studio.export.merge.into import AUTO, Original, find_original, merged_base
from lora_studio.export.merge.merge import merge_into
from lora_studio.export.mlx.adapter import mlx_adapter_fault, write_mlx_adapter
from lora_studio.export.prepare import prepare
from lora_studio.export.readable_names import write_readable
from lora_studio.export.request import check_request, check_space, needed_folders
from lora_studio.export.source import CONFIG_NAME, WEIGHTS_NAME, AdapterSource, read_adapter_config
from lora_studio.export.verify.certificate import Certificate, write_certificate
from lora_studio.export.verify.reference import compare_with, fits_memory, load_artefact, with_adapter
from lora_studio.export.verify.tensor_check import TensorReport, check_tensors
from lora_studio.export.verify.tokenizer_files import (
    copy_own_tokenizer,
    copy_template,
    copy_tokenizer_files,
    end_token_in_words,
    tokenizer_fault,
)
from lora_studio.export.verify.verdict import VerificationResult, make_certificate
from lora_studio.models.check import read_model_config
from lora_studio.models.facts import read_facts
from lora_studio.models.fingerprint import weight_fingerprint
from lora_studio.models.inspect import auto_class, load_config
from lora_studio.models.load import load_model
from lora_studio.models.prepare import ready_model
from lora_studio.models.quantization import NONE
from lora_studio.models.stored_quantization import stored_finding
from lora_studio.models.stored_tensors import TORCH_NAMES
from lora_studio.models.unpacked import open_tensors

_CPU = torch.device("cpu")


def export(
    context: TaskContext,
    source: str,
    kind: ExportFormat,
    to: str,
    dtype: str | None = None,
    overwrite: bool = False,
    check: str = "auto",
    into: str = AUTO,
    outtype: str = "f16",
) -> Iterator[RunEvent]:
    """Export a run, a checkpoint or a PEFT folder as an adapter folder, merged model, GGUF model, GGUF adapter or adapter of mlx-lm.

    Works in fp32 on the CPU, so it disturbs no training on a GPU and its sums are exact before they are rounded once. The base is the one
    on disk, in full precision, whatever it was held in while the adapter was trained: merged into 4 bits, an update would be lost.

    Args:
        context: The host's.
        source: A run, a checkpoint or any PEFT adapter folder.
        kind: "adapter", "merged", "gguf", "gguf-adapter" or "mlx-adapter".
        to: The folder to make.
        dtype: Of the merged weights: "float32", "bfloat16", "float16"; None keeps each tensor's own, or is float32 where that is none of
            them.
        overwrite: Whether an earlier export at `to` may be replaced.
        into: What an adapter of a quantized base is merged into: "original", the base in full precision, "dequantized", the base as it
            was held, unpacked, or the name of the model that a quantized one was made from; "auto" takes the base's own files, unpacked
            where they are quantized.
        outtype: Of a GGUF model's weights, such as "f16" or "q8_0".
        check: "auto" runs the artefact where it fits into memory, "tensors" never does.

    Raises:
        InputError: Source, kind, dtype or target cannot be used; nothing was written.
        StudioError: The artefact did not pass; it is kept under a name that says so.
    """
    if not to.strip():
        raise InputError("No folder is named to export to.", "Name the folder to make.", "to")
    target = Path(to).expanduser().resolve()
    found = check_request(source, kind, target, dtype, overwrite=overwrite, into=into)
    base = yield from ready_model(context, found.base_name, found.base_revision)
    found = found.with_base(base)
    original = yield from _original(context, found, base, kind, into)
    needed = [*needed_folders(found, base), *([original.folder] if original else [])]
    check_destination(target, overwrite=overwrite, needed=needed)
    yield Phase(name="preparing", message="Looking at base model and adapter")
    runs = check == "auto" and fits_memory(base) and stored_finding(found.stored, NONE, "cpu") is None
    work = prepare(found, base, kind, dtype, outtype, into, run=runs, original=original)
    check_space(target, _bytes_needed(work, kind))
    for finding in work.changes.vocabulary.findings():
        level = "warning" if finding.level == "warning" else "info"
        yield Notice(level=level, code=finding.code, message=finding.message, hint=finding.hint)
    with alone_at(target), _told_when_disk_fails(target), whole_folder(target, overwrite=overwrite) as folder:
        certificate = yield from _write(context, work, folder, kind, outtype)
        if not certificate.passed:
            raise _refusal(kind, certificate.reason, keep_as_failed(folder, target))
        size = bytes_below(folder)
        yield Phase(name="saving", message="Writing to disk")
        check_destination(target, overwrite=overwrite, needed=needed)  # someone may have put something there meanwhile
    yield RunFinished(result={"path": str(target), "bytes": size, **_result(work, certificate, kind, target)})


def _write(
    context: TaskContext, work: ExportContext, folder: Path, kind: ExportFormat, outtype: str
) -> Generator[RunEvent, None, Certificate]:
    """Write the artefact, its card and its certificate; return the certificate."""
    certificate = _certificate(work, (yield from _make(context, work, folder, kind, outtype)))
    certificate = replace(certificate, classes=_classes(work, kind))
    yield Phase(name="saving", message="Writing card and certificate")
    write_card(folder, work.source, kind, certificate.dtype, certificate.to_json(), work.trained_base)
    return write_certificate(folder, certificate, context.control.check)


def _result(work: ExportContext, certificate: Certificate, kind: ExportFormat, target: Path) -> dict[str, Any]:
    """Return what `export --json` says of an artefact, but for where it is and how large."""
    return {
        "kind": kind,
        "dtype": certificate.dtype,
        "base_quantization": work.source.base_quantization,
        "certificate": certificate.to_json(),
        "findings": [finding.to_json() for finding in work.changes.vocabulary.findings()],
        **_servable(kind, target, work.trained_base),
    }


def _original(
    context: TaskContext, source: AdapterSource, base: Path, kind: ExportFormat, into: str
) -> Generator[RunEvent, None, Original | None]:
    """Make the full precision ready that a quantized base is replaced by in a merge; None where it is not."""
    name = merged_base(source, base, into) if kind in ("merged", "gguf") else ""
    if not name:
        return None
    find_original(name)
    return Original(name, (yield from ready_model(context, name)))


def _servable(kind: ExportFormat, folder: Path, base: Path) -> dict[str, Any]:
    """Say which programs serve an adapter, and which were measured to compute the same from a merged model."""
    match kind:
        case "adapter":
            found = compatibility(folder, read_facts(base), read_model_config(base))
        case "merged":
            found = merged_compatibility(read_model_config(folder))
        case _:
            return {}
    return {"compatibility": [entry.to_json() for entry in found]}


def _refusal(kind: ExportFormat, reason: str, kept: Path) -> StudioError:
    hint = "Look at its certificate.html, and do not use it."
    return StudioError(f"The {kind} export did not pass: {reason}. It is kept as {kept}.", hint)


@contextlib.contextmanager
def _told_when_disk_fails(target: Path) -> Generator[None]:
    """Turn a full or failing disk into an error a person can act on; nothing half-written stays."""
    try:
        yield
    except OSError as error:
        hint = "Nothing was kept. Free some space or choose another disk, then try again."
        raise StudioError(f"Writing {target} failed: {error.strerror or error}.", hint) from error


def _make(
    context: TaskContext, work: ExportContext, folder: Path, kind: ExportFormat, outtype: str
) -> Generator[RunEvent, None, VerificationResult]:
    reference = work.reference(context, exact=False) if work.run else None  # of llama.cpp, which rounds far more than float32
    match kind:
        case "adapter":
            return (yield from _make_adapter(context, work, folder))
        case "merged":
            return (yield from _make_merged(context, work, folder))
        case "gguf":
            return (yield from make_gguf(context, work, folder, outtype, reference))
        case "mlx-adapter":
            return _make_mlx_adapter(work, folder)
        case _:
            return (yield from make_gguf_adapter(context, work, folder, reference))


def _bytes_needed(work: ExportContext, kind: ExportFormat) -> int:
    """Say what the files will weigh at most, those in between among them."""
    if work.plan is None:
        if kind != "gguf-adapter" or not work.run:
            return 0
        return work.base_alone().bytes * 2 if work.source.stored else sum(one.bytes for one in open_tensors(work.base).by_name.values())
    return work.plan.bytes * (3 if kind == "gguf" else 1)  # merged, converted and, of K-quants, what is quantized


def _make_adapter(context: TaskContext, work: ExportContext, folder: Path) -> Generator[RunEvent, None, VerificationResult]:
    settings = portable(read_adapter_config(work.source.adapter))
    (folder / CONFIG_NAME).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    wrong = write_readable(work.changes, folder)
    copy_own_tokenizer(work.source.adapter, folder)
    copy_template(folder, work.tokenizer_files)
    findings = VerificationResult(kind="adapter", dtype=_adapter_dtype(work), loaded_by=f"peft {peft_version}", **work.told_of_base)
    findings.tensors, findings.wrong = len(work.changes.adapter.header.tensors), wrong
    if work.run:
        reference = yield from work.reference(context)
        model = with_adapter(load_model(work.base, torch.float32, _CPU, unpack=True), folder, work.changes.resized, as_anyone=True)
        findings.compared = yield from compare_with(context, model, reference)
        findings.rows_from = reference.rows.origin
    return findings


def _make_mlx_adapter(work: ExportContext, folder: Path) -> VerificationResult:
    adapter, tree = work.changes.adapter, work.changes.tree
    write_mlx_adapter(adapter, tree, work.source.base_name, folder)
    count, fault = mlx_adapter_fault(adapter, tree, folder)
    return VerificationResult(
        kind="mlx-adapter",
        dtype=_adapter_dtype(work),
        loaded_by="its own config and weights",
        tensors=2 * count,
        tokenizer_fault=fault,
        **work.told_of_base,
    )


def _make_merged(context: TaskContext, work: ExportContext, folder: Path) -> Generator[RunEvent, None, VerificationResult]:
    plan = work.plan
    assert plan is not None
    for done in merge_into(plan, folder):
        context.control.check()
        yield Phase(name="merging", message="Merging", done=done, total=plan.bytes, unit="bytes")
    copy_tokenizer_files(work.base, work.source.adapter, folder, work.tokenizer_files)
    findings = VerificationResult(
        kind="merged",
        dtype=plan.dtype,
        loaded_by=f"transformers {transformers.__version__}",
        rounded=plan.is_rounded,
        **work.told_of_base,
        tokenizer_fault=tokenizer_fault(folder, work.tokenizer_files, plan.config),
    )
    report = TensorReport()
    for done in check_tensors(plan, work.base, folder, report):
        context.control.check()
        yield Phase(name="checking", message="Reading the tensors again", done=done, total=len(plan.layout), unit="tensors")
    findings.tensors, findings.wrong, findings.update_lost = report.checked, report.wrong, report.update_lost
    if work.run:
        reference = yield from work.reference(context, plan.parameter_dtypes())
        yield Phase(name="checking", message="Loading the written model again")
        findings.compared = yield from compare_with(context, load_artefact(folder), reference)
        findings.rows_from = reference.rows.origin
    return findings


def _certificate(work: ExportContext, findings: VerificationResult) -> Certificate:
    source = work.source
    fingerprint = weight_fingerprint(work.trained_base)
    return make_certificate(
        findings,
        end_token=end_token_in_words(work.tokenizer_files),
        chat_template=work.tokenizer_files.template_from,
        base={"name": public_name(source.base_name), "revision": source.base_revision or "", "fingerprint": fingerprint},
        adapter={"name": source.label, "sha256": sha256_of(source.adapter / WEIGHTS_NAME)},
    )


def _classes(work: ExportContext, kind: ExportFormat) -> dict[str, Any]:
    """Say which class loads the base where it is not the usual one, and what an adapter is called in the one its config names."""
    auto = auto_class(load_config(work.base)).__name__
    told = {"auto": auto} if auto != "AutoModelForCausalLM" else {}
    other = other_class(work.base, work.changes.tree, work.changes.adapter) if kind == "adapter" else None
    named = public_name(work.source.base_name), THIS_FOLDER, work.source.base_revision or ""
    return {**told, **(other.to_json(*named) if other else {})}


def _adapter_dtype(work: ExportContext) -> str:
    kinds = sorted({entry.dtype for entry in work.changes.adapter.header.tensors.values()})
    return ", ".join(TORCH_NAMES.get(kind, kind) for kind in kinds)
