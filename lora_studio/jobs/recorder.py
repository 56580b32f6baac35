"""The one writer of a job's events: stamps them, keeps a run's on disk, hands them on."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lora_studio.core.events import LastEvent, RunEvent, RunFailed, RunResumed, event_to_json
from lora_studio.core.runs import RunFolder, last_line


class Recorder:
    """Stamps `seq`, `time` and `attempt` on events from any thread, in one order for file and watcher.

    Args:
        run_dir: The run's folder; None for a job that is no run.
        deliver: Gets every stamped event.
    """

    def __init__(self, run_dir: str | None, deliver: Callable[[RunEvent], None]) -> None:
        self._run = RunFolder(Path(run_dir)) if run_dir else None
        self._deliver = deliver
        self._mutex = threading.RLock()
        self._held = contextlib.ExitStack()
        self._file: IO[bytes] | None = None
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
            self._file = self._held.enter_context(self._run.events_path.open("ab"))
            if _is_torn(self._run.events_path):
                self._file.write(b"\n")
        except BaseException:
            self._held.close()
            raise

    def record(self, event: RunEvent) -> None:
        """Stamp, keep and hand on one event; dropped after `finish`.

        Raises:
            OSError: The disk is full or gone.
        """
        with self._mutex:
            if not self._closed:
                self._put(event)

    def finish(self, last: LastEvent) -> None:
        """Write how the job ended, let go of the run, then hand the last event on: who sees it finds the run at rest."""
        with self._mutex:
            if self._closed:
                return
            stamped = self._stamped(last)
            self._closed = True
            try:
                self._write(stamped)
                if self._file:
                    os.fsync(self._file.fileno())
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
        if self._file:
            self._file.write(event_to_json(event).encode() + b"\n")
            self._file.flush()

    def _unwritten(self, last: RunEvent, error: OSError) -> RunEvent:
        with contextlib.suppress(OSError):
            self._held.close()
        told = last.message if isinstance(last, RunFailed) else f"The run's last event ({last.event}) was not kept."
        failed = RunFailed(message=f"{told} Cannot write to {self._run}: {error.strerror}.", hint="Free some space and resume the run.")
        return failed.model_copy(update={"seq": last.seq, "time": last.time, "attempt": last.attempt, "step": last.step})


def _is_torn(path: Path) -> bool:
    """Say whether the file ends within a line, as a killed writer leaves it."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
