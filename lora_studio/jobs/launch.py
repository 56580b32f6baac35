"""Starting the other processes of a run on this machine, where no launcher has; and being one of them.

Who trains a run of several processes is its first rank: a command, or the child of a process host. It starts the others with this
module as their program. They say nothing but what nobody foresaw, and end with it: by its word, or because it is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

from lora_studio.core.control import Control, TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import RunEvent, RunFailed
from lora_studio.core.runs import RunFolder
from lora_studio.core.waits import reap
from lora_studio.core.world import STARTED, World
from lora_studio.jobs.recorder import Recorder
from lora_studio.jobs.runner import run_task
from lora_studio.jobs.spec import JobSpec

FOLLOW_TASK = "lora_studio.train.engine:follow"
_ENDS_S = 10.0
_ORPHAN_S = 120.0


def processes_of(run_dir: str | None) -> int:
    """Return how many processes a job takes: of a run, what its settings say; of anything else, one."""
    try:
        return RunFolder(Path(run_dir)).config.training.num_processes if run_dir else 1
    except InputError:
        return 1  # the task says what is wrong with them


@contextlib.contextmanager
def followers(count: int) -> Generator[None]:
    """Make this process the first of `count` on this machine, and start the others; all have ended when the block is left.

    Where a launcher started this process, it started the others too: nothing is done.
    """
    if count == 1 or World.of().launched:
        yield
        return
    before = dict(os.environ)
    os.environ.update(_environment(count))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, count):
            environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "lora_studio.jobs.launch"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
                )
            )
        os.environ[STARTED] = ",".join(str(process.pid) for process in started)
        yield
    finally:
        _end(started)
        os.environ.clear()
        os.environ.update(before)


def follow() -> int:
    """Train with the first rank, silently; give the exit status. Blocks until the run has ended here."""
    control = Control()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the first rank too, and it tells
    signal.signal(signal.SIGTERM, lambda _number, _frame: control.stop())
    last: list[RunEvent] = []

    def keep(event: RunEvent) -> None:
        last[:] = [event]

    run_task(JobSpec(FOLLOW_TASK, title="follow"), TaskContext(control), Recorder(None, keep))
    failed = last[-1] if last else None
    if not isinstance(failed, RunFailed):
        return 0
    if failed.details:
        sys.stderr.write(f"Process {World.of().rank} of the run: {failed.details}")
    return failed.exit_status


def _environment(count: int) -> dict[str, str]:
    """Return what PyTorch's launchers set. The processors are shared out, unless somebody has said how many each takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "RANK": "0",
        "LOCAL_RANK": "0",
        **threads,
    }


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the others to end with the first, which may never have met them; one that does not is killed."""
    for process in started:
        process.terminate()
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_S)
        process.kill()
        reap(process)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _watch_starter() -> None:
    """Leave some time after whoever started this process is gone: its end of standard input is closed then."""
    while os.read(0, 1):
        pass
    threading.Event().wait(_ORPHAN_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch_starter, name="starter", daemon=True).start()
    sys.exit(follow())
