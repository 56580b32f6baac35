"""Runs one task to its end, the same in a thread and in a child."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Generator
from pathlib import Path

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, StudioError
from lora_studio.core.events import LastEvent, Phase, RunEvent, RunFailed, RunFinished, RunStopped
from lora_studio.core.runs import RunFolder
from lora_studio.jobs.mailbox import Mailbox
from lora_studio.jobs.recorder import Recorder
from lora_studio.jobs.spec import JobSpec
from lora_studio.jobs.telemetry import MemorySampler

_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


def run_task(spec: JobSpec, context: TaskContext, recorder: Recorder) -> None:
    """Run a task and record its events, the last one always; nothing it raises gets out.

    Jobs on the device, and runs, have `memory` events merged in. A run also heeds requests laid down in its folder.
    """
    try:
        recorder.open()
    except (StudioError, OSError) as error:
        recorder.finish(_failure(error))
        return
    context.post = recorder.record
    sampled = spec.device or spec.run_dir is not None
    with _mailbox(spec, context), MemorySampler(recorder.record) if sampled else contextlib.nullcontext():
        last = _drive(spec, context, recorder)
    recorder.finish(last)


def _mailbox(spec: JobSpec, context: TaskContext) -> contextlib.AbstractContextManager[object]:
    """Open a run's mailbox, now that its lock is held: requests there are for this attempt."""
    return Mailbox(RunFolder(Path(spec.run_dir)).control_path, context.control) if spec.run_dir else contextlib.nullcontext()


def _drive(spec: JobSpec, context: TaskContext, recorder: Recorder) -> LastEvent:
    """Iterate the task; turn its end, whatever it is, into the last event."""
    try:
        context.control.check()
        if spec.device and not spec.is_imported:
            recorder.record(Phase(name="loading", message="Loading the engine"))
        task = spec.resolve()
        return _exhaust(task(context, **spec.arguments), context, recorder) or RunFinished()
    except (Cancelled, GeneratorExit):
        return RunStopped()
    except BaseException as error:
        return _failure(error)


def _exhaust(events: Generator[RunEvent], context: TaskContext, recorder: Recorder) -> LastEvent | None:
    """Record what the task yields up to its last event; a task that goes on yielding after it was told to abandon is closed."""
    last: LastEvent | None = None
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, RunFinished | RunStopped | RunFailed):
                last = event
                continue
            recorder.record(event)
            if context.control.abandoning:
                return last or RunStopped()
    return last


def _failure(error: BaseException) -> RunFailed:
    """Tell an error: one we foresaw by its own words, any other with its traceback."""
    if isinstance(error, StudioError):
        return RunFailed(message=error.message, hint=error.hint, field=error.field, exit_status=error.exit_status)
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where = f" {error.filename}" if error.filename else ""
        hint = "Make room, or choose a folder you may write to; then go on."
        return RunFailed(message=f"Cannot write{where}: {error.strerror}.", hint=hint)
    details = "".join(traceback.format_exception(error))
    told = f"{type(error).__name__}: {error}".removesuffix(": ")
    return RunFailed(message=told, hint="This was not foreseen; the details say where.", details=details)
