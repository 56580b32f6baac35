"""How much of the device a run uses, from the measurement to the figures in its events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_studio.core.events import RunStarted, Step
from lora_studio.core.history import RunHistory
from lora_studio.planning.flops import StepFlops
from lora_studio.train.precision import Precision
from lora_studio.train.utilization import Utilization, peak_flops
from tests.tiny import write_chat_rows
from tests.train.helpers import all_events, new_run, run_config

CPU = torch.device("cpu")


def test_the_share_is_of_what_the_device_could_have_done() -> None:
    use = Utilization(StepFlops(a_token=10, a_trained=100, a_pair=0), peak_flops=1000.0)
    assert use.share([4, 6], trained=2, seconds=0.5) == pytest.approx(300 / 500)


def test_without_a_measurement_there_is_no_share() -> None:
    assert Utilization(StepFlops(1, 1, 1), peak_flops=None).share([4], 2, 0.5) is None


def test_a_peak_is_measured_once_and_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    measured = peak_flops(Precision(CPU, torch.float32))
    assert measured is not None
    assert measured > 1e8
    assert peak_flops(Precision(CPU, torch.float32)) == measured
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_device_that_takes_no_such_product_gives_no_figure() -> None:
    assert peak_flops(Precision(CPU, torch.bool)) is None


@pytest.mark.parametrize("packing", [False, True])
def test_a_run_tells_its_peak_and_each_steps_share(tiny_model: Callable[[str], Path], tmp_path: Path, packing: bool) -> None:
    config = run_config(tiny_model("llama"), write_chat_rows(tmp_path / "rows.jsonl"), {"data.packing": packing})
    events = all_events(new_run(tmp_path / "run", config))
    started = next(event for event in events if isinstance(event, RunStarted))
    steps = [event for event in events if isinstance(event, Step)]
    history = RunHistory()
    for event in events:
        history.add(event)

    assert started.peak_flops == peak_flops(Precision(CPU, getattr(torch, started.compute_dtype)))
    assert all(step.utilization is not None and 0 < step.utilization < 1 for step in steps)
    assert list(history.utilization.y) == [step.utilization for step in steps]
