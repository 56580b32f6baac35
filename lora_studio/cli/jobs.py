"""Running one job from the command line: its events shown, Ctrl+C obeyed, its end turned into a result or an error."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

from lora_studio.cli.console import STOPPED, Console
from lora_studio.cli.progress import ProgressPrinter
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import RunEvent, RunFailed, RunStopped
from lora_studio.jobs.host import Host
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec

_LOOK_S = 0.05


def open_host(kind: str) -> Host:
    """Return a host, `thread` or `process`."""
    if kind == "process":
        from lora_studio.jobs.process import ProcessHost

        return ProcessHost()
    from lora_studio.jobs.thread import ThreadHost

    return ThreadHost()


def run_job(
    console: Console,
    host: Host,
    spec: JobSpec,
    watch: Callable[[RunEvent], None] | None = None,
    saves: bool = False,
) -> dict[str, Any]:
    """Run a job to its end and give its result; progress goes to standard error.

    Args:
        console: Where progress goes.
        host: Where it runs.
        spec: What it does.
        watch: Gets every event, the last one too; None shows progress.
        saves: Whether a first Ctrl+C keeps work, so that a second one has a meaning of its own to tell.

    Raises:
        InputError: What was given is wrong.
        StudioError: It failed.
        Cancelled: It was stopped.
    """
    progress = ProgressPrinter(console)
    shown = watch or progress.show
    job = host.start(spec)
    with _obeying_ctrl_c(console, progress, job, saves):
        try:
            while not job.wait(_LOOK_S):
                _pass_on(job, shown)
            _pass_on(job, shown)
        finally:
            progress.clear()
    return _result(console, job)


def _pass_on(job: Job, shown: Callable[[RunEvent], None]) -> None:
    for event in job.drain():
        shown(event)


def _result(console: Console, job: Job) -> dict[str, Any]:
    last = job.last_event
    if isinstance(last, RunStopped):
        raise Cancelled
    if isinstance(last, RunFailed):
        if last.details:
            console.note(last.details.rstrip())
        raise (InputError if last.exit_status == InputError.exit_status else StudioError)(last.message, last.hint, last.field)
    return job.result or {}


@contextlib.contextmanager
def _obeying_ctrl_c(console: Console, progress: ProgressPrinter, job: Job, saves: bool) -> Generator[None]:
    """Make the first Ctrl+C stop the job, the second abandon it, the third leave; signal USR1 asks for a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    presses = 0

    def pressed(_number: int, _frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses == 1:
            progress.line(_STOPPING if saves else "Stopping …")
            job.control.stop()
        elif presses == 2:
            progress.line("Abandoning the step under way; the last checkpoint stays." if saves else "Stopping at once …")
            job.control.abandon()
        else:
            console.note("Leaving at once.")
            os._exit(STOPPED)

    known: dict[int, Any] = {number: signal.signal(number, pressed) for number in (signal.SIGINT, signal.SIGTERM)}
    if checkpoint := getattr(signal, "SIGUSR1", None):
        known[checkpoint] = signal.signal(checkpoint, lambda _number, _frame: job.control.checkpoint_now())
    try:
        yield
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


_STOPPING = "Stopping after this micro-batch; the work is saved. Press Ctrl+C again to abandon the step under way."
