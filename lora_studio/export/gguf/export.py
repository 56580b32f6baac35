"""Exports as GGUF: what is made, in which order, and how it is certified."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import StudioError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.data.rows.row import Message, Row
from lora_studio.data.templates.template import ChatTemplate
from lora_studio.export.gguf.adapter import gguf_adapter_fault, refuse_beyond_gguf, write_gguf_adapter
from lora_studio.export.gguf.check import check_gguf_tensors, gguf_tokenizer_fault
from lora_studio.export.gguf.llama_check import compare_in_llama, llama_available, llama_version
from lora_studio.export.gguf.llama_cpp import find_converter
from lora_studio.export.gguf.llama_families import model_beyond_gguf
from lora_studio.export.gguf.model import write_gguf_model
from lora_studio.export.gguf.modelfile import modelfile
from lora_studio.export.merge.merge import merge_into
from lora_studio.export.redact import last_part, public_name
from lora_studio.export.verify.comparison import LogitComparison
from lora_studio.export.verify.tensor_check import TensorReport, check_tensors
from lora_studio.export.verify.tokenizer_files import copy_tokenizer_files, tokenizer_fault
from lora_studio.export.verify.verdict import LLAMA_LIMIT_OF_OTHERS, LLAMA_LIMITS, VerificationResult

if TYPE_CHECKING:
    from lora_studio.core.control import TaskContext
    from lora_studio.export.context import ExportContext
    from lora_studio.export.verify.reference import Reference

MERGED_NAME = ".merged"
"""Folder in which the merged model lies while it is converted."""


def file_name(label: str, ending: str) -> str:
    """Return the name of a GGUF file: what was exported, and what it is."""
    slug = re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.") or "model"
    return f"{slug}-{ending}.gguf"


def make_gguf(
    context: TaskContext, work: ExportContext, folder: Path, outtype: str, reference: Generator[RunEvent, None, Reference] | None
) -> Generator[RunEvent, None, VerificationResult]:
    """Merge, convert, and look at what came of it.

    Args:
        context: The host's.
        work: What is exported; its plan is written in float32, or in bfloat16 where that is the type asked for.
        folder: The artefact's.
        outtype: See `gguf_model.OUTTYPES`.
        reference: Computes what base + adapter answers; None where the artefact is not to be run.
    """
    plan = work.plan
    assert plan is not None
    merged = folder / MERGED_NAME
    merged.mkdir()
    for done in merge_into(plan, merged):
        context.control.check()
        yield Phase(name="merging", message="Merging", done=done, total=plan.bytes, unit="bytes")
    copy_tokenizer_files(work.base, work.source.adapter, merged, work.tokenizer_files)
    report = TensorReport()
    for done in check_tensors(plan, work.base, merged, report):
        context.control.check()
        yield Phase(name="checking", message="Reading the merged tensors again", done=done, total=len(plan.layout), unit="tensors")
    file = folder / file_name(work.source.label, outtype)
    yield from write_gguf_model(context, merged, file, outtype, _name(work))
    yield Phase(name="checking", message="Reading the GGUF file again")
    found = check_gguf_tensors(merged, file)
    findings = VerificationResult(
        kind="gguf",
        dtype=outtype,
        loaded_by="its own header and weights",
        rounded=outtype != "f32",
        tensors=report.checked + found.checked,
        wrong=[*report.wrong, *found.wrong],
        update_lost=report.update_lost if outtype in ("f32", "bf16") else None,
        tokenizer_fault=tokenizer_fault(merged, work.tokenizer_files, plan.config) or gguf_tokenizer_fault(file, work.tokenizer_files),
        **work.told_of_base,
        llama_limit=LLAMA_LIMITS.get(outtype, LLAMA_LIMIT_OF_OTHERS),
    )
    shutil.rmtree(merged)
    (folder / "Modelfile").write_text(modelfile(file.name, _renderer(work), bos=_bos(work)), encoding="utf-8")
    yield from _run(context, findings, file, None, work, reference)
    if findings.llama is None and not found.checked:
        findings.tokenizer_fault = findings.tokenizer_fault or "nothing here can look into it: install xllamacpp"
    return findings


def make_gguf_adapter(
    context: TaskContext, work: ExportContext, folder: Path, reference: Generator[RunEvent, None, Reference] | None
) -> Generator[RunEvent, None, VerificationResult]:
    """Write an adapter as GGUF, recompute its updates, and run it on its base in llama.cpp where that can be; see `make_gguf`."""
    file = folder / file_name(work.source.label, "lora")
    adapter, tree = work.changes.adapter, work.changes.tree
    refuse_beyond_gguf(adapter, work.base, tree)
    yield Phase(name="saving", message="Writing the adapter")
    write_gguf_adapter(adapter, work.base, tree, file)
    count, fault = gguf_adapter_fault(adapter, work.base, tree, file)
    findings = VerificationResult(
        kind="gguf-adapter",
        dtype="f32",
        loaded_by="its own header and weights",
        tensors=2 * count,
        tokenizer_fault=fault,
        llama_limit=LLAMA_LIMITS["f32"],
        **work.told_of_base,
    )
    (folder / "Modelfile").write_text(modelfile(file.name, lambda _messages: None, base="BASE_MODEL"), encoding="utf-8")
    converter = find_converter()
    runs = llama_available() and converter is not None and not model_beyond_gguf(work.base, own_converter=converter.is_own)
    if reference is not None and runs:
        base = folder / "base.gguf"
        try:
            yield from _write_base(context, work, base)
            yield from _run(context, findings, base, file, work, reference)
        finally:
            base.unlink(missing_ok=True)
    return findings


def _write_base(context: TaskContext, work: ExportContext, target: Path) -> Generator[RunEvent]:
    """Write the adapter's base as GGUF in float32; one that is quantized by way of a folder of its weights unpacked."""
    if work.source.stored is None:
        yield from write_gguf_model(context, work.base, target, "f32")
        return
    plan, unpacked = work.base_alone(), target.with_name(MERGED_NAME)
    unpacked.mkdir()
    try:
        for done in merge_into(plan, unpacked):
            context.control.check()
            yield Phase(name="converting", message="Unpacking the base", done=done, total=plan.bytes, unit="bytes")
        copy_tokenizer_files(work.base, work.base, unpacked, work.tokenizer_files)
        yield from write_gguf_model(context, unpacked, target, "f32")
    finally:
        shutil.rmtree(unpacked)


def _run(
    context: TaskContext,
    findings: VerificationResult,
    model: Path,
    adapter: Path | None,
    work: ExportContext,
    reference: Generator[RunEvent, None, Reference] | None,
) -> Generator[RunEvent]:
    """Run the file in llama.cpp, where that is here."""
    if reference is None or not llama_available():
        return
    expected = yield from reference
    rows = expected.rows.rows
    if expected.trained:
        findings.trained = LogitComparison()
        for trained, found in zip(expected.trained, expected.expected, strict=True):
            findings.trained.add(trained, found)
    findings.llama = yield from compare_in_llama(context, model, adapter, rows, expected.expected, work.tokenizer_files.tokenizer)
    findings.loaded_by, findings.rows_from = llama_version(), expected.rows.origin


def _renderer(work: ExportContext) -> Any:
    """Return the chat template as a function from messages to the prompt for an answer; it runs in a child, which ends one that loops."""

    def render(messages: Sequence[Any]) -> str | None:
        turns = tuple(Message(str(message["role"]), str(message["content"])) for message in messages)
        with suppress(StudioError), ChatTemplate(work.tokenizer_files.tokenizer, work.tokenizer_files.template) as template:
            (found,) = template.prompts([Row("", 1, "messages", messages=(*turns, Message("assistant", "x")))])
            return str(getattr(found, "text", "")) or None
        return None

    return render


def _name(work: ExportContext) -> str:
    """Say what the file calls the model: its base, by whose name llama.cpp goes for some families, and what it was trained to be."""
    return f"{last_part(public_name(work.source.base_name))} {work.source.label}"


def _bos(work: ExportContext) -> str:
    return str(work.tokenizer_files.tokenizer.bos_token or "")
