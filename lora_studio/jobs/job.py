"""A job as whoever started it sees it: its state, its events, its controls."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from lora_studio.core.control import Control
from lora_studio.core.events import LastEvent, Memory, Paused, RunEvent, RunFailed, RunFinished, RunStopped
from lora_studio.jobs.spec import JobSpec

JobState = Literal["queued", "running", "paused", "finished", "stopped", "failed"]


class Job:
    """One task under way, queued or ended. Its host feeds it; any thread may read it.

    Attributes:
        id: Unlike any other job's.
        spec: What it does.
        control: What a person may ask of it: `pause`, `resume`, `stop`, `abandon`, `checkpoint_now`, `sample_now`.
        began: Whether its turn has come; a job dropped from the queue never began.
        pid: The process it runs in, where that is another; None until it has one.
    """

    def __init__(self, spec: JobSpec, on_request: Callable[[Job, str], None] | None = None) -> None:
        self.id = secrets.token_hex(6)
        self.spec = spec
        self.began = False
        self.pid: int | None = None
        self.control = Control(listener=(lambda name: on_request(self, name)) if on_request else None)
        self._events: deque[RunEvent] = deque()
        self._state: JobState = "queued"
        self._last: LastEvent | None = None
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"Job({self.spec.title or self.spec.target!r}, {self.state})"

    @property
    def state(self) -> JobState:
        """What it is at."""
        return self._state

    @property
    def ended(self) -> bool:
        """Whether its last event is there."""
        return self._ended.is_set()

    @property
    def last_event(self) -> LastEvent | None:
        """How it ended; None until then."""
        return self._last

    @property
    def result(self) -> dict[str, Any] | None:
        """What it was for, once it has finished or stopped; None before, and of a failed job."""
        return None if self._last is None or isinstance(self._last, RunFailed) else self._last.result

    def drain(self) -> list[RunEvent]:
        """Take the events that came since last time; never waits."""
        taken: list[RunEvent] = []
        while self._events:
            taken.append(self._events.popleft())
        return taken

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, or `timeout` seconds are over; say whether it has. Every event is there to drain then."""
        return self._ended.wait(timeout)

    def started(self) -> None:
        """Host's side: its turn has come."""
        if not self.ended:
            self.began = True
            self._state = "running"

    def receive(self, event: RunEvent) -> None:
        """Host's side: take in the next event; what comes after the last one is dropped."""
        if self.ended:
            return
        self._events.append(event)
        match event:
            case RunFinished():
                self._end(event, "finished")
            case RunStopped():
                self._end(event, "stopped")
            case RunFailed():
                self._end(event, "failed")
            case Paused():
                self._state = "paused"
            case Memory():
                pass  # sampled whatever the task does
            case _:
                self._state = "running"

    def _end(self, event: LastEvent, state: JobState) -> None:
        self._last = event
        self._state = state
        self._ended.set()
