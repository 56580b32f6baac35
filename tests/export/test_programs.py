"""Programs run to their end: all that they print is read, and a failure is told in their own last words."""

from __future__ import annotations

import sys

import pytest

from lora_studio.core.control import TaskContext
from lora_studio.export.programs import ProgramFailedError, run_program


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
