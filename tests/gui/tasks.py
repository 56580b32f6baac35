"""Small real tasks that stand where training and exports stand, told what to do by their arguments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import CheckpointSaved, Evaluation, Paused, Phase, RunEvent, RunFinished, RunResumed, RunStarted, Sample, Step
from lora_studio.core.runs import RunFolder
from lora_studio.export.gguf.llama_cpp import CONVERTER_SCRIPT, fetched_folder

REFERENCE = '{"queue": "billing", "urgency": "low"}'


def count(context: TaskContext, steps: int) -> Iterator[RunEvent]:
    """Tell `steps` phases as fast as it can; the result is their number."""
    for number in range(steps):
        context.control.check()
        yield Phase(name="preparing", done=number, total=steps)
    yield RunFinished(result={"counted": steps})


def wait(context: TaskContext) -> Iterator[RunEvent]:
    """Work until told to stop."""
    yield Phase(name="training", message="waiting")
    while True:
        context.control.check()
        time.sleep(0.002)


def fail(context: TaskContext, foreseen: bool = True) -> Iterator[RunEvent]:
    """End with an error, foreseen or not."""
    yield Phase(name="preparing")
    if foreseen:
        raise InputError("There is no such thing.", "Give another.", "adapter.r")
    raise ZeroDivisionError("by zero")


def train(context: TaskContext, run_dir: str, resume: bool = False) -> Iterator[RunEvent]:
    """Take steps that cost nothing, with samples, evaluations, checkpoints, pause and stop as training has them."""
    folder = RunFolder.open(Path(run_dir))
    total = folder.config.training.max_steps
    begin = 5 if resume else 0
    yield Phase(name="loading", message="Loading the model")
    yield from [RunResumed(from_step=begin, total_steps=total)] if resume else _opening(total)
    for step in range(begin + 1, total + 1):
        if context.control.paused:
            yield Paused(step=step - 1)
            context.control.wait_while_paused()
        if context.control.stopping:
            if not context.control.abandoning:
                yield _checkpoint(folder, step - 1)
            raise Cancelled
        yield step_event(step)
        if step % 5 == 0 or context.control.take_checkpoint_request():
            yield _checkpoint(folder, step)
        if context.control.take_sample_request():
            yield from samples("step", REFERENCE, step)
        time.sleep(0.002)
    yield Evaluation(step=total, loss=0.9, rows=2, trained_tokens=20, seconds=0.1)
    yield from samples("after", REFERENCE, total)
    _adapter(folder.adapter_path)
    yield RunFinished(result={"adapter": str(folder.adapter_path), "steps": total, "eval_loss": 0.9})


def export(
    context: TaskContext, source: str, kind: str, to: str, dtype: str | None = None, overwrite: bool = False, **_more: str
) -> Iterator[RunEvent]:
    """Return a certificate; wait to be cancelled where the target says so; refuse a bfloat16 merge."""
    yield Phase(name="merging", message="Merging", done=1, total=2, unit="tensors")
    while "slow" in to:
        context.control.check()
        time.sleep(0.002)
    if dtype == "bfloat16":
        raise StudioError("The merged export was refused: logits differ by 3.", "Merge in float32.")
    Path(to).mkdir(parents=True, exist_ok=overwrite)
    certificate = {
        "rows": 4,
        "max_abs_logit_difference": 2.5e-6,
        "top1_agreement": 1.0,
        "effect_lost": 0.0,
        "passed": True,
        "offers_float32": dtype == "float16",
    }
    programs = (
        [
            {"program": "PEFT", "answer": "yes", "reason": "this folder", "remedy": ""},
            {"program": "vLLM", "answer": "no", "reason": "a rank of 9", "remedy": "train with r 8."},
            {"program": "Other programs", "answer": "not measured", "reason": "were not tried", "remedy": ""},
        ]
        if kind == "adapter"
        else []
    )
    yield RunFinished(
        result={
            "path": to,
            "kind": kind,
            "bytes": 2_500_000,
            "dtype": dtype or "float32",
            "certificate": certificate,
            "compatibility": programs,
        }
    )


def fetch_converter(_context: TaskContext) -> Iterator[RunEvent]:
    """Put a converter where the fetched one would be."""
    fetched_folder().mkdir(parents=True)
    (fetched_folder() / CONVERTER_SCRIPT).write_text("", encoding="utf-8")
    yield RunFinished()


def step_event(step: int, loss: float | None = None) -> Step:
    """Make a step's event; the loss falls from 4 unless given."""
    return Step(
        step=step,
        loss=4.0 / step if loss is None else loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens=100 * step,
        trained_tokens=40 * step,
        tokens_per_second=1000.0,
        epoch=step / 10,
        seconds=0.5,
    )


def samples(label: str, text: str, step: int = 0) -> Iterator[Sample]:
    """Make answers to three held-out prompts."""
    for row in range(3):
        yield Sample(step=step, label=label, row=row, prompt=f"Prompt {row}", reference=REFERENCE, text=text)  # type: ignore[arg-type]


def _opening(total: int) -> Iterator[RunEvent]:
    yield RunStarted(
        total_steps=total, train_rows=8, eval_rows=3, trainable_parameters=64, all_parameters=6400, device="cpu", compute_dtype="float32"
    )
    yield from samples("before", "Dear customer,")


def _checkpoint(folder: RunFolder, step: int) -> CheckpointSaved:
    path = folder.path / "checkpoints" / f"step-{step:06d}"
    _adapter(path)
    return CheckpointSaved(step=step, path=f"checkpoints/{path.name}", bytes=8, seconds=0.01)


def _adapter(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text("{}", encoding="utf-8")
    (path / "adapter_model.safetensors").write_bytes(b"12345678")
