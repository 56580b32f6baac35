"""The other end of `ProcessHost`: `python -m lora_studio.jobs.child` runs one task and ends.

It says that it has started, reads its job from standard input as one line of JSON, and says that it has it; then it reads
requests, one a line, and writes events to standard output, one a line. Whatever a library prints goes to standard error. When
standard input ends, whoever started it is gone: a job that is no run is abandoned, a run stops with its work saved, unless it is
meant to survive.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from lora_studio.core.control import REQUESTS, Control, TaskContext
from lora_studio.core.events import RunEvent, RunStopped, event_to_json
from lora_studio.jobs.launch import followers, processes_of
from lora_studio.jobs.recorder import Recorder
from lora_studio.jobs.runner import run_task
from lora_studio.jobs.spec import JobSpec

DETACH = "detach"
_ORPHAN_SAVES_S = 120.0
_BLOCK = 1 << 16


@dataclass
class _Parent:
    """Events to whoever started us, for as long as they read them."""

    stream: int
    mutex: threading.Lock = field(default_factory=threading.Lock)
    gone: bool = False

    def say(self, step: str) -> None:
        """Say that a step on the way to the task is done."""
        self._write(json.dumps({"step": step}))

    def deliver(self, event: RunEvent) -> None:
        self._write(event_to_json(event))

    def _write(self, line: str) -> None:
        with self.mutex:
            if self.gone:
                return
            try:
                _write_all(self.stream, line.encode() + b"\n")
            except OSError:
                self.gone = True

    def leave(self) -> None:
        """Close the stream: the reader at its other end sees the end."""
        with self.mutex:
            self.gone = True
            os.close(self.stream)


def main() -> int:
    """Run the job named on standard input; events on standard output."""
    faulthandler.enable()
    parent = _Parent(os.dup(1))
    os.dup2(2, 1)
    lines = _lines(0)
    parent.say("start")
    order = json.loads(next(lines))
    parent.say("job")
    spec = JobSpec.from_json(json.dumps(order["spec"]))
    recorder = Recorder(spec.run_dir, parent.deliver)
    control = Control(listener=lambda _name: _watch_abandoning(control, recorder, float(order["grace"])))
    signal.signal(signal.SIGTERM, lambda _number, _frame: control.stop())
    if checkpoint := getattr(signal, "SIGUSR1", None):
        signal.signal(checkpoint, lambda _number, _frame: control.checkpoint_now())
    threading.Thread(target=_obey, args=(lines, spec, control, parent), name="requests", daemon=True).start()
    with followers(processes_of(spec.run_dir)):
        run_task(spec, TaskContext(control), recorder)
    return 0


def _obey(lines: Iterator[str], spec: JobSpec, control: Control, parent: _Parent) -> None:
    """Hand requests to the control; when they end, the one who asked is gone."""
    survives = spec.survives
    for line in lines:
        if line in REQUESTS:
            control.request(line)
        elif line == DETACH:
            survives = True
            parent.leave()
    if survives:
        return
    if spec.run_dir is None:
        control.abandon()
        return
    if not control.stopping:
        control.stop()
    threading.Event().wait(_ORPHAN_SAVES_S)
    control.abandon()


def _watch_abandoning(control: Control, recorder: Recorder, grace: float) -> None:
    """Once the task is to be abandoned, give it `grace` seconds to unwind, then end the process around it."""
    if control.abandoning:
        threading.Thread(target=_leave_after, args=(recorder, grace), name="abandon", daemon=True).start()


def _leave_after(recorder: Recorder, grace: float) -> None:
    threading.Event().wait(grace)
    recorder.finish(RunStopped())
    os._exit(0)


def _lines(stream: int) -> Iterator[str]:
    """Read lines straight from the descriptor: a thread blocked in a buffered reader would hold its lock at exit."""
    rest = b""
    while block := os.read(stream, _BLOCK):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode() for line in whole)


def _write_all(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]


if __name__ == "__main__":
    sys.exit(main())
