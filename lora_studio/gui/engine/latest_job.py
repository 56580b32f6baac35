"""One question at a time to the engine: whoever asks again, or asks no longer, hears nothing of the question before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_studio.core.events import LastEvent, RunEvent
from lora_studio.jobs.spec import JobSpec

if TYPE_CHECKING:
    from lora_studio.gui.engine.job_center import JobCenter, OnDone, OnEvent
    from lora_studio.jobs.job import Job


class LatestJob:
    """Starts jobs of which only the last counts; listeners are called in the window's thread.

    Attributes:
        job: The one under way; None where none is, or none that is listened to.
    """

    def __init__(self, jobs: JobCenter) -> None:
        """Take where jobs are started."""
        self._jobs = jobs
        self.job: Job | None = None

    def start(self, spec: JobSpec, on_done: OnDone, on_event: OnEvent | None = None) -> Job:
        """Start a job in place of the one under way.

        Args:
            spec: What is to be done.
            on_done: Called with how it ended, stopped or failed too, when `job` is None again; not at all once it is no longer the latest.
            on_event: Called with each event before, in order, as long as it is the latest.

        Raises:
            RuntimeError: The center is closed.
        """
        self.drop()
        own: list[Job] = []  # known once the center has given it; no listener is called before this function has returned

        def heard(event: RunEvent) -> None:
            if self.job in own and on_event is not None:
                on_event(event)

        def ended(last: LastEvent) -> None:
            if self.job in own:
                self.job = None
                on_done(last)

        self.job = self._jobs.start(spec, on_event=heard, on_done=ended)
        own.append(self.job)
        return self.job

    def stop(self) -> None:
        """Ask the job under way to stop; its end is still told."""
        if self.job is not None:
            self.job.control.stop()

    def drop(self) -> None:
        """Stop the job under way and hear no more of it."""
        self.stop()
        self.job = None
