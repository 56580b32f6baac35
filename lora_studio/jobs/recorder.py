"""The one writer of a job's events: stamps them, keeps a run's on disk, hands them on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lora_studio.core.events import LastEvent, Notice, RunEvent, RunFailed, RunResumed, event_to_json
from lora_studio.core.runs import RunFolder, last_line
from lora_studio.jobs.journal import Journal


class Recorder:
    """Stamps `seq`, `time` and `attempt` on events from any thread, in one order for file and watcher.

    Args:
        run_dir: The run's folder; None for a job that is no run.
        deliver: Gets every stamped event.
    """

    def __init__(self, run_dir: str | None, deliver: Callable[[RunEvent], None]) -> None:
        self._run = RunFolder(Path(run_dir)) if run_dir else None
        self._run_path = self._run.events_path if self._run else None
        self._deliver = deliver
        self._mutex = threading.RLock()
        self._held = contextlib.ExitStack()
        self._journal: Journal | None = None
        self._told_fault = ""
        self._seq = 0
        self._attempt = 1
        self._step = 0
        self._closed = False

    def open(self) -> None:
        """Take the run's lock and go on behind what `events.jsonl` holds.

        Raises:
            StudioError: Another program writes to the run.
            OSError: The folder cannot be written.
        """
        if self._run is None:
            return
        self._held.enter_context(self._run.lock())
        try:
            last = last_line(self._run.events_path)
            if last is not None:
                self._seq = int(last.get("seq", -1)) + 1
                self._attempt = int(last.get("attempt", 0)) + 1
            self._journal = Journal(self._run.events_path)
        except BaseException:
            self._held.close()
            raise

    def record(self, event: RunEvent) -> None:
        """Stamp, keep and hand on one event; dropped after `finish`. What the disk does not take is kept here until it does."""
        with self._mutex:
            if not self._closed:
                self._put(event)
                self._tell_fault()

    def finish(self, last: LastEvent) -> None:
        """Write how the job ended, let go of the run, then hand the last event on: who sees it finds the run at rest."""
        with self._mutex:
            if self._closed:
                return
            stamped = self._stamped(last)
            self._closed = True
            try:
                self._write(stamped)
                if self._journal:
                    self._journal.close()
                self._held.close()
            except OSError as error:
                stamped = self._unwritten(stamped, error)
        self._deliver(stamped)

    def _put(self, event: RunEvent) -> None:
        stamped = self._stamped(event)
        self._write(stamped)
        self._deliver(stamped)

    def _stamped(self, event: RunEvent) -> RunEvent:
        if isinstance(event, RunResumed):
            self._step = event.from_step
        if "step" in event.model_fields_set:
            self._step = event.step
        stamps = {"seq": self._seq, "time": time.time(), "attempt": self._attempt, "step": self._step}
        self._seq += 1
        return event.model_copy(update=stamps)

    def _write(self, event: RunEvent) -> None:
        if self._journal:
            self._journal.append(event_to_json(event))

    def _tell_fault(self) -> None:
        """Tell, once each time, that events wait for the disk."""
        fault = self._journal.fault if self._journal else ""
        if fault and not self._told_fault:
            self._deliver(
                self._stamped(
                    Notice(
                        level="error",
                        code="events_wait",
                        message=f"Cannot write to {self._run_path}: {fault}.",
                        hint="The work goes on; its events are kept in memory until they can be written.",
                    )
                )
            )
        self._told_fault = fault

    def _unwritten(self, last: RunEvent, error: OSError) -> RunEvent:
        with contextlib.suppress(OSError):
            self._held.close()
        told = last.message if isinstance(last, RunFailed) else f"The run's last event ({last.event}) was not kept."
        failed = RunFailed(message=f"{told} Cannot write to {self._run_path}: {error.strerror}.", hint="Make room and resume the run.")
        return failed.model_copy(update={"seq": last.seq, "time": last.time, "attempt": last.attempt, "step": last.step})
