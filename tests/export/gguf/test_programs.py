"""Programs run to their end: all that they print is read, and a failure is told in their own last words."""

from __future__ import annotations

import sys

import psutil
import pytest

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled
from lora_studio.export.gguf.programs import ProgramFailedError, run_program


def run(script: str) -> list[str]:
    return [line for line in run_program(TaskContext(), [sys.executable, "-c", script]) if line]


def test_all_that_a_program_prints_before_it_ends_is_read() -> None:
    lines = run("import sys; sys.stdout.write(''.join(f'{n} ' + 'x' * 4000 + '\\n' for n in range(1500)) + 'end')")
    assert len(lines) == 1501
    assert lines[-2].startswith("1499 ")
    assert lines[-1] == "end"


def test_a_failing_program_is_told_by_its_last_words() -> None:
    with pytest.raises(ProgramFailedError) as error:
        run("import sys; print('begun', flush=True); print('no room', file=sys.stderr); sys.exit(3)")
    assert (error.value.status, error.value.said) == (3, "no room")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_program_that_was_killed_is_told_by_the_signal_and_not_by_what_it_printed_before() -> None:
    with pytest.raises(ProgramFailedError) as error:
        run("import os, signal; print('all is well', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    assert error.value.said == "it was killed by SIGKILL"


def test_a_stopped_task_ends_the_program_and_all_that_it_started() -> None:
    context = TaskContext()
    child = "import time; time.sleep(600)"
    script = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); {child}"
    lines = run_program(context, [sys.executable, "-c", script])
    started = psutil.Process(int(next(line for line in lines if line)))
    context.control.stop()
    with pytest.raises(Cancelled):
        list(lines)
    started.wait()
