"""The usual host: tasks run in threads of this process, so the base model stays loaded from one to the next."""

from __future__ import annotations

import sys
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.jobs.host import Host
from lora_studio.jobs.job import Job
from lora_studio.jobs.recorder import Recorder
from lora_studio.jobs.runner import run_task

# Every call of a paint into Qt lets the training thread in, and the window waits this long to get its turn back: at Python's 5 ms a
# repaint of five plots takes a second, at 0.5 ms some 90 in 685 looks at the event loop came 50 ms late, at 0.05 ms 11 in 870.
_SWITCH_INTERVAL_S = 0.00005


class ThreadHost(Host):
    """Runs tasks in threads. What a device job leaves in `context.warm` is there for the next one, on the same thread."""

    def __init__(self) -> None:
        super().__init__()
        self._warm: dict[str, Any] = {}

    def _run(self, job: Job) -> None:
        recorder = Recorder(job.spec.run_dir, job.receive)
        if not job.spec.device:
            run_task(job.spec, TaskContext(job.control), recorder)
            return
        usual = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            run_task(job.spec, TaskContext(job.control, self._warm), recorder)
        finally:
            sys.setswitchinterval(usual)

    def _engine_over(self) -> None:
        self._warm.clear()
