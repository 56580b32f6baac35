"""Hosts to test, and what must not be left behind by them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from lora_studio.jobs.host import Host
from lora_studio.jobs.process import ProcessHost
from lora_studio.jobs.thread import ThreadHost


@pytest.fixture(autouse=True)
def nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every thread and child a test started has ended with it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    threads, children = set(threading.enumerate()), set(psutil.Process().children())
    yield
    assert set(threading.enumerate()) <= threads
    assert set(psutil.Process().children()) <= children


@pytest.fixture(params=["thread", "process"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with ThreadHost() if request.param == "thread" else ProcessHost(grace=0.3) as host:
        yield host


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunStore(tmp_path / "runs").create(RunConfig(name="a run"))


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something that another thread or process brings about."""

    def wait(condition: Callable[[], bool]) -> None:
        pause = threading.Event()
        for _ in range(2000):
            if condition():
                return
            pause.wait(0.01)
        raise AssertionError("it never came")

    return wait
