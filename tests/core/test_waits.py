"""What is waited for has a limit of a free machine's seconds, and a watchdog leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from lora_studio.core import waits
from lora_studio.core.waits import Patience, exit_words, reap, watched


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(waits, "waiting", lambda: 1.0)
    return now


def looks_until_over(patience: Patience, clock: list[float], every: float) -> int:
    looks = 1
    clock[0] += every
    while not patience.is_over():
        looks += 1
        clock[0] += every
    return looks


@pytest.mark.parametrize(("sharing", "looks"), [(1.0, 10), (4.0, 40)])
def test_patience_lasts_longer_the_more_programs_share_a_processor(
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    sharing: float,
    looks: int,
) -> None:
    monkeypatch.setattr(waits, "waiting", lambda: sharing)
    assert looks_until_over(Patience(10.0), clock, 1.0) == looks


def test_a_program_that_was_itself_held_up_blames_nobody_for_it(clock: list[float]) -> None:
    patience = Patience(10.0)
    clock[0] += 3600
    assert not patience.is_over()


def test_how_many_programs_share_a_processor_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1e6, 0.0, 0.0), raising=False)
    assert waits.waiting() == 30.0


def test_a_watchdog_ends_what_blocks_and_says_so() -> None:
    before = set(threading.enumerate())
    reading, writing = os.pipe()
    with watched(lambda: os.close(writing), 0.1) as watch:
        assert os.read(reading, 1) == b""
    os.close(reading)
    assert watch.silent
    assert set(threading.enumerate()) == before


def test_a_watchdog_of_what_answers_does_nothing() -> None:
    ended: list[bool] = []
    before = set(threading.enumerate())
    with watched(lambda: ended.append(True), 60.0) as watch:
        pass
    assert (watch.silent, ended, set(threading.enumerate())) == (False, [], before)


def test_a_child_that_no_signal_ends_is_not_waited_for_without_an_end() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        reap(child, 0.05)  # stands for one that hangs inside the system: it was not killed
        assert child.poll() is None
        child.kill()


@pytest.mark.parametrize(
    ("status", "words"), [(3, "ended by itself with status 3"), (-9, "was killed by SIGKILL"), (-250, "was killed by signal 250")]
)
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_how_a_process_ended_is_told_in_words(status: int, words: str) -> None:
    assert exit_words(status) == words
