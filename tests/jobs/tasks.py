"""Tasks the hosts' tests run, in a thread and in a child alike."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import Notice, Paused, Phase, RunEvent, RunFinished, RunStarted, RunStopped, Step


def step_event(step: int, loss: float = 1.0) -> Step:
    return Step(
        step=step,
        loss=loss,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens=10 * step,
        trained_tokens=5 * step,
        tokens_per_second=100.0,
        epoch=step / 10,
        seconds=0.01,
    )


def add(context: TaskContext, left: int, right: int) -> Iterator[RunEvent]:
    yield Phase(name="adding", message="Adding", done=1, total=2, unit="numbers")
    yield RunFinished(result={"sum": left + right})


def silent(context: TaskContext) -> Iterator[RunEvent]:
    yield from ()


def steps(context: TaskContext, count: int, loss: float = 1.0) -> Iterator[RunEvent]:
    yield RunStarted(
        total_steps=count, train_rows=3, eval_rows=1, trainable_parameters=7, all_parameters=70, device="cpu", compute_dtype="float32"
    )
    for step in range(1, count + 1):
        yield step_event(step, loss)


def post_from_inside(context: TaskContext) -> Iterator[RunEvent]:
    worker = threading.Thread(target=lambda: context.post(Phase(name="downloading", done=3, total=4, unit="bytes")))
    worker.start()
    worker.join()
    yield Notice(code="after", message="posted")


def patient(context: TaskContext, leave: str = "") -> Iterator[RunEvent]:
    """Count steps until told to stop; pause and go on when asked; take the requests for checkpoint and sample."""
    step = 0
    while not context.control.stopping:
        if context.control.paused:
            yield Paused(step=step)
            context.control.wait_while_paused()
            continue
        if context.control.take_checkpoint_request():
            yield Notice(code="checkpoint", message="checkpoint")
        if context.control.take_sample_request():
            yield Notice(code="sample", message="sample")
        step += 1
        yield step_event(step)
        time.sleep(0.01)
    if leave:
        Path(leave).write_text("saved", encoding="utf-8")
    yield RunStopped(result={"steps": step})


def deaf(context: TaskContext) -> Iterator[RunEvent]:
    """Never look at the requests."""
    while True:
        yield Phase(name="training")
        time.sleep(0.01)


def stuck(context: TaskContext) -> Iterator[RunEvent]:
    """Sit in one call that cannot be interrupted from within."""
    yield Phase(name="training")
    time.sleep(600)


def cancelled(context: TaskContext) -> Iterator[RunEvent]:
    while True:
        context.control.check()
        yield Phase(name="training")
        time.sleep(0.01)


def refuse(context: TaskContext) -> Iterator[RunEvent]:
    yield Phase(name="loading")
    raise InputError("Rank must be positive.", "Set adapter.r to 8.", "adapter.r")


def crash(context: TaskContext) -> Iterator[RunEvent]:
    yield Phase(name="loading")
    raise ZeroDivisionError("a bug of ours")


def noisy(context: TaskContext) -> Iterator[RunEvent]:
    print("a library that talks on standard output")  # noqa: T201
    os.write(1, b'{"event": "no event of ours"}\n')
    yield RunFinished(result={"heard": True})


def warm_count(context: TaskContext) -> Iterator[RunEvent]:
    context.warm["count"] = context.warm.get("count", 0) + 1
    yield RunFinished(result={"count": context.warm["count"], "thread": threading.current_thread().name})


def process_id(context: TaskContext, path: str) -> Iterator[RunEvent]:
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    yield from patient(context)


def die(context: TaskContext) -> Iterator[RunEvent]:
    """End the process as a bad native library does."""
    yield step_event(1)
    ctypes.string_at(0)
