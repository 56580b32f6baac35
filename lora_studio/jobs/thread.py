"""The usual host: tasks run in threads of this process, so the base model stays loaded from one to the next."""

from __future__ import annotations

import sys
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.jobs.device_queue import DeviceQueue
from lora_studio.jobs.host import Host
from lora_studio.jobs.job import Job
from lora_studio.jobs.recorder import Recorder
from lora_studio.jobs.runner import run_task

# Every call of a paint into Qt lets the training thread in, and the window waits this long to get its turn back: at Python's 5 ms a
# repaint of five plots takes a second, at 0.5 ms some 90 in 685 looks at the event loop came 50 ms late, at 0.05 ms 11 in 870.
_SWITCH_INTERVAL_S = 0.00005


class ThreadHost(Host):
    """Runs tasks in threads. What a device job leaves in `context.warm` is there for the next one, on the same thread.

    It goes when a job of another host takes the device, which needs the memory.

    Args:
        line: As for every host.
    """

    def __init__(self, line: DeviceQueue | None = None) -> None:
        super().__init__(line)
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

    def _let_go(self) -> None:
        if not self._warm:
            return
        self._warm.clear()
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # its allocator keeps what was freed, and another process cannot use that
