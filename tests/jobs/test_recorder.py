"""The recorder stamps, orders and keeps events; the last one is always there."""

from __future__ import annotations

import os
import threading
import types
from typing import Any

import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.events import Memory, Notice, Phase, RunEvent, RunFailed, RunFinished, RunResumed
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from lora_studio.jobs import telemetry
from lora_studio.jobs.recorder import Recorder
from lora_studio.jobs.telemetry import MemorySampler
from tests.jobs.tasks import step_event
from tests.small_disk import SmallDisk


def test_events_from_many_threads_are_in_one_order_for_file_and_watcher(run_folder: RunFolder) -> None:
    watched: list[RunEvent] = []
    recorder = Recorder(str(run_folder.path), watched.append)
    recorder.open()
    threads = [threading.Thread(target=lambda: [recorder.record(Phase(name="x")) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.finish(RunFinished())
    assert [event.seq for event in watched] == list(range(801))
    assert list(run_folder.events()) == watched


def test_nothing_comes_behind_the_last_event(run_folder: RunFolder) -> None:
    watched: list[RunEvent] = []
    recorder = Recorder(str(run_folder.path), watched.append)
    recorder.open()
    recorder.finish(RunFinished())
    recorder.record(Memory(resident=1))
    recorder.finish(RunFailed(message="too late"))
    assert [event.event for event in watched] == ["run_finished"]


def test_whoever_sees_the_last_event_finds_the_run_at_rest(run_folder: RunFolder) -> None:
    states: list[str] = []
    recorder = Recorder(str(run_folder.path), lambda _event: states.append(run_folder.state))
    recorder.open()
    recorder.record(step_event(1))
    recorder.finish(RunFinished())
    assert states == ["running", "finished"]


def test_events_without_a_step_of_their_own_get_the_current_one() -> None:
    watched: list[RunEvent] = []
    recorder = Recorder(None, watched.append)
    for event in (RunResumed(from_step=40, total_steps=90), Memory(resident=1), step_event(41), Phase(name="saving")):
        recorder.record(event)
    assert [event.step for event in watched] == [40, 40, 41, 41]


def test_a_run_that_cannot_be_written_fails_with_the_folder_named(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[RunEvent] = []
    recorder = Recorder(str(run_folder.path), watched.append)
    recorder.open()

    def full(_handle: int, _line: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    recorder.finish(RunFinished())
    last = watched[-1]
    assert isinstance(last, RunFailed)
    assert str(run_folder.path) in last.message
    assert "No space left" in last.message
    assert run_folder.state == "new"


def test_events_that_the_disk_does_not_take_wait_and_none_is_lost(small_disk: SmallDisk) -> None:
    watched: list[RunEvent] = []
    run = RunStore(small_disk.folder).create(RunConfig(name="a run"))
    recorder = Recorder(str(run.path), watched.append)
    recorder.open()
    text = "x" * 100
    for number in range(3):
        recorder.record(Phase(name=f"before {number}", message=text))
    small_disk.fill(run.events_path)
    for number in range(60):
        recorder.record(Phase(name=f"full {number}", message=text))
    assert [event.code for event in watched if isinstance(event, Notice)] == ["events_wait"]
    assert len([event for event in watched if isinstance(event, Phase)]) == 63
    small_disk.make_room()
    recorder.record(Phase(name="after"))
    recorder.finish(RunFinished())
    kept = list(run.events())
    assert [event.seq for event in kept] == sorted({event.seq for event in kept})
    names = [event.name for event in kept if isinstance(event, Phase)]
    assert names == [f"before {number}" for number in range(3)] + [f"full {number}" for number in range(60)] + ["after"]
    assert isinstance(watched[-1], RunFinished)
    assert run.state == "finished"


@pytest.mark.parametrize("error", [RuntimeError("nonsense"), OSError(5, "gone"), SystemError("driver")])
def test_a_driver_that_fails_in_the_middle_costs_its_figures_only(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import pynvml

    answers = iter([types.SimpleNamespace(used=3, total=7)])

    def memory(_handle: object) -> object:
        for answer in answers:
            return answer
        raise error

    for name, answer in {"nvmlInit": None, "nvmlDeviceGetHandleByIndex": object(), "nvmlShutdown": None}.items():
        monkeypatch.setattr(pynvml, name, lambda *_arguments, answer=answer: answer)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen: list[Memory] = []
    thrice = threading.Event()

    def deliver(event: Memory) -> None:
        seen.append(event)
        if len(seen) == 3:
            thrice.set()

    with MemorySampler(deliver, interval=0.01):
        assert thrice.wait(30)
    assert [event.device_total for event in seen[:3]] == [7, None, None]


def test_memory_is_sampled_at_once_and_again() -> None:
    seen: list[Memory] = []
    twice = threading.Event()

    def deliver(event: Memory) -> None:
        seen.append(event)
        if len(seen) == 2:
            twice.set()

    with MemorySampler(deliver, interval=0.01):
        assert twice.wait(30)
    assert all(event.resident > 1_000_000 for event in seen)


def test_cuda_figures_come_from_a_torch_that_has_begun_with_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def torch(begun: bool) -> Any:
        cuda = types.SimpleNamespace(is_initialized=lambda: begun, memory_allocated=lambda: 3, memory_reserved=lambda: 5)
        mps = types.SimpleNamespace(is_available=lambda: False)
        return types.SimpleNamespace(cuda=cuda, backends=types.SimpleNamespace(mps=mps))

    monkeypatch.setitem(telemetry.sys.modules, "torch", torch(True))
    assert MemorySampler(print).look().cuda_reserved == 5
    monkeypatch.setitem(telemetry.sys.modules, "torch", torch(False))
    assert MemorySampler(print).look().cuda_allocated is None
    monkeypatch.setitem(telemetry.sys.modules, "torch", types.SimpleNamespace())  # half imported
    assert MemorySampler(print).look().resident > 0


def test_a_driver_that_fails_costs_its_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def fail(*_arguments: object) -> object:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    look = MemorySampler(print).look()
    assert look.resident > 0
    assert look.device_total is None
