"""What a person may ask of a running task, and how the task looks at it.

A `Control` is shared by two threads: one asks, the task's own looks between micro-batches. It holds requests,
never work, so asking answers at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lora_studio.core.errors import Cancelled

REQUESTS = ("pause", "resume", "stop", "abandon", "checkpoint_now", "sample_now")


class Control:
    """Requests to a running task: pause, resume, stop, abandon, checkpoint now, sample now.

    Args:
        listener: Told the name of every request after it is taken in; a host uses it to pass requests on to a child
            or to take a waiting job out of its queue.
    """

    def __init__(self, listener: Callable[[str], None] | None = None) -> None:
        self._changed = threading.Condition()
        self._listener = listener
        self._paused = False
        self._stop = False
        self._abandon = False
        self._checkpoint = False
        self._sample = False

    def pause(self) -> None:
        """Ask the task to wait before its next micro-batch."""
        with self._changed:
            self._paused = not self._stop
        self._tell("pause")

    def resume(self) -> None:
        """Let a paused task go on."""
        with self._changed:
            self._paused = False
        self._tell("resume")

    def stop(self) -> None:
        """Ask the task to end after this micro-batch with its work saved; asked twice, abandon the step too."""
        with self._changed:
            self._abandon = self._abandon or self._stop
            self._stop, self._paused = True, False
        self._tell("stop")

    def abandon(self) -> None:
        """Ask the task to end at once and drop the step under way; the last checkpoint stays."""
        with self._changed:
            self._abandon = self._stop = True
            self._paused = False
        self._tell("abandon")

    def checkpoint_now(self) -> None:
        """Ask for a checkpoint after the step under way."""
        with self._changed:
            self._checkpoint = True
        self._tell("checkpoint_now")

    def sample_now(self) -> None:
        """Ask for samples after the step under way."""
        with self._changed:
            self._sample = True
        self._tell("sample_now")

    def request(self, name: str) -> None:
        """Make the request of this name, one of `REQUESTS`.

        Raises:
            ValueError: There is no such request.
        """
        if name not in REQUESTS:
            raise ValueError(f"no request is called {name!r}")
        getattr(self, name)()

    @property
    def paused(self) -> bool:
        """Whether the task is asked to wait."""
        return self._paused

    @property
    def stopping(self) -> bool:
        """Whether the task is asked to end."""
        return self._stop

    @property
    def abandoning(self) -> bool:
        """Whether the task is asked to drop the step under way."""
        return self._abandon

    def take_checkpoint_request(self) -> bool:
        """Return whether a checkpoint was asked for since last looked, and forget it."""
        with self._changed:
            asked, self._checkpoint = self._checkpoint, False
            return asked

    def take_sample_request(self) -> bool:
        """Return whether samples were asked for since last looked, and forget it."""
        with self._changed:
            asked, self._sample = self._sample, False
            return asked

    def wait_while_paused(self, timeout: float | None = None) -> bool:
        """Block while paused; return whether the task may go on (False: still paused after `timeout` seconds)."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._paused, timeout)

    def wait(self, timeout: float) -> None:
        """Block until something is asked, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait(timeout)

    def check(self) -> None:
        """Raise `Cancelled` when the task is asked to end: for tasks with nothing to save."""
        if self._stop:
            raise Cancelled

    def _tell(self, name: str) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._listener:
            self._listener(name)


@dataclass
class TaskContext:
    """What a host hands to a task.

    Attributes:
        control: The requests to look at.
        warm: Things that outlive the task on its thread, such as a loaded base model; empty in a fresh process.
        post: Hands an event to the host from within a call that cannot yield, such as a download's progress.
    """

    control: Control = field(default_factory=Control)
    warm: dict[str, Any] = field(default_factory=dict)
    post: Callable[[Any], None] = lambda _event: None
