"""The loop leaves the device to itself: nothing is read from it, and no frozen module walked over, between two looks at the figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_studio.core.training_settings import TrainingSettings
from lora_studio.kernels.batches import make_batch, trained_count
from lora_studio.train import session
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import Stepper
from tests.tiny import ARCHITECTURES
from tests.train.helpers import adapted_model, all_events, new_run, run_config, token_rows
from tests.train.waits import Waits

CPU = torch.device("cpu")


def take_steps(stepper: Stepper, count: int, packed: bool = False) -> None:
    rows = token_rows(4)
    if packed:
        rows = [type(row)(row.input_ids, row.trained, (3,)) for row in rows]
    for step in range(count):
        for start in (0, 2):
            stepper.accumulate(make_batch(rows[start : start + 2]), sum(trained_count(row) for row in rows), step)
        stepper.step(1e-3)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_step_waits_for_the_device(tiny_model: Callable[[str], Path], architecture: str, packed: bool, compute: torch.dtype) -> None:
    stepper = Stepper(adapted_model(tiny_model(architecture), architecture, dropout=0.1), TrainingSettings(), Precision(CPU, compute))
    take_steps(stepper, 1, packed)  # the head is tried out once
    with Waits() as waits:
        take_steps(stepper, 3, packed)
        posted = stepper.post()
    assert waits.found == {}
    with Waits() as waits:
        torch.ones(2)[torch.tensor([True, False])].sum().item()
    assert len(waits.found) == 2
    assert len(posted.read()) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("packed", [False, True])
def test_no_step_waits_for_a_graphics_card(tiny_model: Callable[[str], Path], packed: bool) -> None:
    card = torch.device("cuda")
    stepper = Stepper(adapted_model(tiny_model("llama")).to(card), TrainingSettings(), Precision(card, torch.bfloat16))
    take_steps(stepper, 2, packed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_steps(stepper, 3, packed)
        posted = stepper.post()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(posted.read()) == 5


def test_figures_read_a_step_late_are_the_same(
    tiny_model: Callable[[str], Path],
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {"training.sample_rows": 0, "training.eval_steps": 3, "training.save_steps": 4})
    max_rows = [event for event in all_events(new_run(tmp_path / "max_rows", config)) if event.event not in ("phase", "checkpoint_saved")]
    logbook = session.MetricsBuffer
    monkeypatch.setattr(session, "MetricsBuffer", lambda every, _late: logbook(every, late=True))
    late = [event for event in all_events(new_run(tmp_path / "late", config)) if event.event not in ("phase", "checkpoint_saved")]
    told = [(event.event, event.step, getattr(event, "loss", None)) for event in max_rows]
    assert sorted(told[1:], key=str) == sorted([(event.event, event.step, getattr(event, "loss", None)) for event in late][1:], key=str)
    steps = [event.step for event in late if event.event == "step"]
    assert steps == sorted(steps)
    assert [event.event for event in late if event.step == 3] == ["step", "evaluation"]


def test_the_optimizer_holds_the_adapter_alone(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"))
    stepper = Stepper(model, TrainingSettings(), Precision(CPU, torch.float32))
    held = {id(parameter) for group in stepper.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for name, parameter in model.named_parameters() if ".lora_" in name}


def test_a_step_walks_over_no_frozen_module(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = Stepper(adapted_model(tiny_model("llama")), TrainingSettings(), Precision(CPU, torch.float32))
    take_steps(stepper, 1)
    walked: list[torch.nn.Module] = []
    walk = torch.nn.Module.named_modules

    def counted(module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        walked.append(module)
        return walk(module, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "named_modules", counted)
    take_steps(stepper, 2)
    assert walked == []
    list(stepper.model.modules())
    assert walked


def test_logging_every_few_steps_tells_those_alone(tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {"training.sample_rows": 0, "training.max_steps": 7, "training.logging_steps": 3, "data.eval_fraction": 0.0},
    )
    events = all_events(new_run(tmp_path / "run", config))
    assert [event.step for event in events if event.event == "step"] == [3, 6, 7]
