"""Limits on waits grow with what else the machine has to do."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import patience
from tests.patience import Patience, slowdown


def test_a_free_machine_is_no_slower_than_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "waiting", lambda: 1.0)
    assert 1.0 <= slowdown() <= 30.0


def test_on_a_busy_machine_a_limit_is_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience, "slowdown", lambda: 4.0)
    wait = Patience(10.0)
    now[0] += 39
    assert not wait.is_over()
    now[0] += 2
    assert wait.is_over()


@pytest.mark.skipif(sys.platform == "win32", reason="no alarm there")
@pytest.mark.parametrize(("busy", "outcome"), [(1.0, "1 failed"), (1000.0, "1 passed")])
def test_a_tests_own_limit_grows_too(tmp_path: Path, busy: float, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text(
        f"from tests import conftest\nconftest.waiting = lambda: {busy}\nconftest._LOOK_AGAIN_S = 0.1\n"
        "from tests.conftest import pytest_timeout_set_timer\n"
    )
    (tmp_path / "test_slow.py").write_text("import time\ndef test_slow():\n    time.sleep(1)\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=0.3", f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
