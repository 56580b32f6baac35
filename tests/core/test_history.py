"""A history is a replay of events: curves, samples, log, time left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.events import (
    CheckpointSaved,
    Evaluation,
    Memory,
    Notice,
    Paused,
    Phase,
    RunEvent,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    Sample,
    Step,
    event_to_json,
)
from lora_studio.core.history import Curve, MovingAverage, RunHistory


def started(total_steps: int = 10, **stamps: Any) -> RunStarted:
    return RunStarted(
        total_steps=total_steps,
        train_rows=1,
        eval_rows=1,
        trainable_parameters=1,
        all_parameters=2,
        device="cpu",
        compute_dtype="float32",
        **stamps,
    )


def step(number: int, loss: float = 1.0, seconds: float = 0.5, **stamps: Any) -> Step:
    return Step(
        step=number,
        loss=loss,
        learning_rate=number * 1e-3,
        grad_norm=0.1,
        tokens=10 * number,
        trained_tokens=4 * number,
        tokens_per_second=20.0,
        epoch=number / 10,
        seconds=seconds,
        peak_memory=1000 + number,
        **stamps,
    )


def sample(label: str, **stamps: Any) -> Sample:
    return Sample(label=label, row=0, prompt="p", reference="r", text="t", **stamps)  # type: ignore[arg-type]


def checkpoint(number: int) -> CheckpointSaved:
    return CheckpointSaved(path=f"checkpoints/step-{number:06d}", bytes=5, seconds=0.1, step=number)


def history_of(*events: RunEvent) -> RunHistory:
    history = RunHistory()
    for event in events:
        history.add(event)
    return history


def test_every_step_is_a_point_on_each_curve() -> None:
    history = history_of(started(), step(1, 3.0), step(2, 2.0))
    assert list(history.loss.x) == [1, 2]
    assert list(history.loss.y) == [3.0, 2.0]
    assert list(history.learning_rate.y) == [1e-3, 2e-3]
    assert list(history.grad_norm.y) == [0.1, 0.1]
    assert list(history.tokens_per_second.y) == [20.0, 20.0]
    assert list(history.peak_memory.y) == [1001, 1002]
    assert (history.step, history.total_steps, history.tokens, history.trained_tokens, history.epoch) == (2, 10, 20, 8, 0.2)


def test_the_smoothed_loss_is_the_bias_corrected_average() -> None:
    losses = [3.0, 2.0, 4.0, 1.0]
    history = history_of(started(), *(step(number, loss) for number, loss in enumerate(losses, 1)))
    weights = [0.9 ** (len(losses) - 1 - index) for index in range(len(losses))]
    expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert history.smoothed_loss.y[-1] == pytest.approx(expected, rel=1e-12)
    assert history.smoothed_loss.y[0] == pytest.approx(3.0, rel=1e-12)


def test_a_loss_that_is_no_number_does_not_poison_the_average() -> None:
    history = history_of(started(), step(1, 2.0), step(2, math.nan, skipped=True), step(3, 2.0))
    assert list(history.smoothed_loss.y) == pytest.approx([2.0, 2.0, 2.0])
    assert math.isnan(history.loss.y[1])
    assert any(line.level == "warning" and "Step 2" in line.text for line in history.log)


def test_an_average_of_nothing_is_no_number() -> None:
    assert math.isnan(MovingAverage(0.9).value)


def test_resuming_drops_what_earlier_attempts_did_later() -> None:
    history = history_of(
        started(),
        *(step(number) for number in range(1, 6)),
        checkpoint(2),
        checkpoint(4),
        sample("before"),
        sample("step", step=5),
        Evaluation(loss=2.0, rows=1, trained_tokens=1, seconds=1.0, step=4),
        RunResumed(from_step=2, total_steps=10, attempt=2, step=2),
        step(3, 0.5, attempt=2),
    )
    assert list(history.loss.x) == [1, 2, 3]
    assert history.loss.y[-1] == 0.5
    assert len(history.evaluation) == 0
    assert [saved.step for saved in history.checkpoints] == [2]
    assert [found.label for found in history.samples] == ["before"]
    assert history.step == 3


def test_the_average_after_resuming_is_that_of_the_kept_steps() -> None:
    resumed = history_of(started(), step(1, 1.0), step(2, 9.0), RunResumed(from_step=1, total_steps=10, attempt=2), step(2, 2.0, attempt=2))
    straight = history_of(started(), step(1, 1.0), step(2, 2.0))
    assert list(resumed.smoothed_loss.y) == pytest.approx(list(straight.smoothed_loss.y))


def test_memory_is_over_seconds_of_run_time_without_the_gap_between_attempts() -> None:
    history = history_of(
        Memory(resident=5, time=100.0),
        Memory(resident=6, time=110.0),
        Memory(resident=7, time=5000.0, attempt=2),
        Memory(resident=8, time=5001.0, attempt=2),
    )
    assert list(history.memory["resident"].x) == pytest.approx([0, 10, 10, 11])
    assert history.elapsed == pytest.approx(11)


def test_a_machine_without_cuda_has_no_cuda_curve() -> None:
    assert set(history_of(Memory(resident=5)).memory) == {"resident"}
    history = history_of(Memory(resident=5, cuda_allocated=1, cuda_reserved=2, device_used=3, device_total=4, device_utilization=50.0))
    assert set(history.memory) == {"resident", "cuda_allocated", "cuda_reserved", "device_used", "device_utilization"}
    assert history.device_total == 4


def test_the_time_left_follows_the_pace() -> None:
    history = history_of(started(10))
    assert history.seconds_left is None
    for number in range(1, 5):
        history.add(step(number, seconds=2.0))
    assert history.seconds_left == pytest.approx(12.0)
    history.add(RunFinished())
    assert history.seconds_left is None


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (Paused(), "paused"),
        (RunFinished(), "finished"),
        (RunStopped(), "stopped"),
        (RunFailed(message="no"), "failed"),
        (step(1), "running"),
    ],
)
def test_the_state_is_what_the_last_event_says(last: RunEvent, state: str) -> None:
    assert history_of(started(), last).state == state


def test_a_history_without_events_is_new() -> None:
    assert RunHistory().state == "new"


def test_a_paused_run_that_goes_on_runs() -> None:
    assert history_of(started(), Paused(), Phase(name="training")).state == "running"


def test_a_new_attempt_is_not_ended_by_the_one_before() -> None:
    history = history_of(started(), RunStopped(), Phase(name="loading", attempt=2))
    assert history.state == "running"
    assert history.last_event is None


def test_the_phase_is_there_until_the_next_step() -> None:
    loading = Phase(name="loading", message="Loading the model")
    history = history_of(loading, loading.model_copy(update={"done": 1, "total": 2}))
    assert history.phase is not None
    assert history.phase.done == 1
    assert [line.text for line in history.log] == ["Loading the model"]
    history.add(step(1))
    assert history.phase is None


def test_the_log_tells_levels_and_times() -> None:
    history = history_of(
        Notice(level="warning", code="x", message="Rows were cut.", hint="Raise max_length.", time=5.0),
        RunFailed(message="It broke.", hint="Mend it.", time=6.0),
    )
    assert [(line.time, line.level, line.text) for line in history.log] == [
        (5.0, "warning", "Rows were cut. Raise max_length."),
        (6.0, "error", "It broke. Mend it."),
    ]


def test_a_curve_forgets_points_right_of_a_place() -> None:
    curve = Curve()
    for x in (1, 2, 2, 3):
        curve.append(x, x * 10)
    curve.drop_after(2)
    assert list(curve.y) == [10, 20, 20]
    curve.drop_after(0)
    assert len(curve) == 0
    assert curve.last is None


def test_a_replay_from_disk_is_the_history_that_was_watched(tmp_path: Path) -> None:
    events: list[RunEvent] = [started(time=1.0), Memory(resident=3, time=1.5)]
    events += [step(number, 1 / number, time=1.0 + number) for number in range(1, 50)]
    events += [checkpoint(49), sample("after", step=49), RunFinished(time=60.0)]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{event_to_json(event)}\n" for event in events) + '{"torn', encoding="utf-8")
    watched, replayed = history_of(*events), RunHistory.replay(path)
    assert replayed.count == len(events)
    for mine, theirs in zip(replayed.step_curves, watched.step_curves, strict=True):
        assert (mine.x, mine.y) == (theirs.x, theirs.y)
    assert (replayed.log, replayed.samples, replayed.checkpoints, replayed.state) == (
        watched.log,
        watched.samples,
        watched.checkpoints,
        "finished",
    )


def test_a_run_that_never_started_replays_to_nothing(tmp_path: Path) -> None:
    assert RunHistory.replay(tmp_path / "events.jsonl").count == 0
