"""The course of a run: when it saves, evaluates, samples and ends, and which adapter it ends with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled
from lora_studio.core.events import CheckpointSaved, Evaluation, Notice, Phase, RunEvent, RunFinished, Sample, Step
from lora_studio.core.runs import RunFolder
from lora_studio.inference.score import loss_sums
from lora_studio.train import checkpointer, held_out, session
from lora_studio.train.engine import train
from lora_studio.train.progress import Progress
from lora_studio.train.spikes import SpikeWatch
from tests.train.helpers import all_events, losses, new_run, run_config

TinyModel = Callable[[str], Path]
EVALUATED = {"training.eval_steps": 2, "training.save_steps": 3, "training.max_steps": 12, "training.sample_rows": 0}


def told_losses(monkeypatch: pytest.MonkeyPatch, told: Sequence[float]) -> None:
    """Have each evaluation of the run end with the next of these losses, whatever the model says."""
    left = iter(told)

    def sums(*arguments: object, **options: object) -> object:
        pieces = list(loss_sums(*arguments, **options))  # type: ignore[arg-type]
        tokens, rows = sum(piece[1] for piece in pieces), sum(piece[2] for piece in pieces)
        yield next(left) * tokens, tokens, rows

    monkeypatch.setattr(held_out, "loss_sums", sums)


def of_code(events: Sequence[RunEvent], code: str) -> list[Notice]:
    return [event for event in events if isinstance(event, Notice) and event.code == code]


def weights(folder: Path) -> dict[str, object]:
    return {name: tensor.tolist() for name, tensor in load_file(folder / "adapter_model.safetensors").items()}


def test_a_run_ends_early_once_evaluations_do_not_improve_and_keeps_the_best(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_losses(monkeypatch, [9.0, 5.0, 4.0, 3.95, 4.2, 4.3])
    run = new_run(
        tmp_path / "run",
        run_config(
            tiny_model("llama"),
            chat_rows,
            {
                **EVALUATED,
                "training.early_stopping_patience": 3,
                "training.early_stopping_threshold": 0.1,
                "training.save_total_limit": 1,
                "training.load_best_model_at_end": True,
            },
        ),
    )
    events = all_events(run)
    assert [event.step for event in events if isinstance(event, Evaluation)] == [0, 2, 4, 6, 8, 10]
    assert [event.step for event in of_code(events, "early_stop")] == [10]
    assert len(losses(events)) == 10
    assert [event.step for event in of_code(events, "best_taken")] == [10]
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert (last.result["best_step"], last.result["best_loss"], last.result["eval_loss"]) == (6, 3.95, 3.95)
    assert [folder.name for folder in run.checkpoints] == ["step-000006", "step-000010"]
    assert weights(run.adapter_path) == weights(run.checkpoints[0]) != weights(run.checkpoints[1])


def test_without_the_switch_the_last_steps_adapter_is_the_runs(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_losses(monkeypatch, [9.0, 1.0, 2.0, 3.0])
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {**EVALUATED, "training.max_steps": 6}))
    events = all_events(run)
    assert not of_code(events, "early_stop")
    assert weights(run.adapter_path) == weights(run.checkpoints[-1])


def test_an_evaluation_that_a_kill_cut_off_is_made_up_for(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {**EVALUATED, "training.save_steps": 4, "training.early_stopping_patience": 2}
    config = run_config(tiny_model("llama"), chat_rows, changes)
    told_losses(monkeypatch, [9.0, 5.0, 6.0, 7.0])
    whole = all_events(new_run(tmp_path / "whole", config))
    told_losses(monkeypatch, [9.0, 5.0])
    run = new_run(tmp_path / "cut", config)
    for event in train(TaskContext(), str(run.path)):
        if isinstance(event, CheckpointSaved) and event.step == 4:
            break  # as if killed between the checkpoint and the evaluation of step 4
    told_losses(monkeypatch, [6.0, 7.0])
    rest = all_events(run, resume=True)
    assert [(event.step, event.loss) for event in rest if isinstance(event, Evaluation)] == [(4, 6.0), (6, 7.0)]
    assert [event.step for event in of_code(rest, "early_stop")] == [event.step for event in of_code(whole, "early_stop")] == [6]
    assert losses(rest) == losses(whole)[4:]


def test_a_checkpoint_is_saved_by_the_clock(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {
            "training.save_steps": 100,
            "training.eval_steps": 100,
            "training.max_steps": 5,
            "training.sample_rows": 0,
            "training.save_minutes": 2,
            "data.eval_fraction": 0.0,
        },
    )
    clock = {"now": 0.0}
    monkeypatch.setattr(checkpointer.time, "monotonic", lambda: clock["now"])
    saved = []
    for event in train(TaskContext(), str(new_run(tmp_path / "run", config).path)):
        if isinstance(event, Step):
            clock["now"] += 50
        if isinstance(event, CheckpointSaved):
            saved.append(event.step)
    assert saved == [3, 5]


def test_prompts_are_answered_on_a_schedule(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {"training.sample_steps": 2, "training.max_steps": 5, "training.sample_rows": 1, "adapter.lora_dropout": 0.2},
    )
    events = all_events(new_run(tmp_path / "run", config))
    assert [(event.label, event.step) for event in events if isinstance(event, Sample)] == [
        ("before", 0),
        ("step", 2),
        ("step", 4),
        ("after", 5),
    ]
    quiet = config.replace({"training.sample_steps": 0, "training.eval_steps": 1})
    assert losses(events) == losses(all_events(new_run(tmp_path / "quiet", quiet)))


def test_a_spike_is_told_and_a_scattering_loss_is_none() -> None:
    watch = SpikeWatch()
    scattered = [2.0, 2.2, 1.9, 2.3, 2.1, 1.8, 2.0, 2.4, 2.2, 1.7, 2.5]
    assert [watch.usual_before(loss) for loss in scattered] == [None] * len(scattered)
    assert watch.usual_before(9.0) == pytest.approx(2.1)
    assert watch.usual_before(2.2) is None
    again = SpikeWatch(watch.losses)
    assert again.usual_before(8.0) is not None


def test_a_loss_that_has_settled_at_nothing_does_not_spike_by_a_hair() -> None:
    watch = SpikeWatch([0.5] * 20)
    assert watch.usual_before(0.6) is None
    assert watch.usual_before(0.7) is not None


def test_a_spike_in_a_run_is_told_with_its_step(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {"training.max_steps": 12, "training.sample_rows": 0, "data.eval_fraction": 0.0, "training.learning_rate": 1e-4},
    )
    finish = session.Stepper.step
    taken = iter(range(1, 100))

    def spiked(stepper: session.Stepper, rate: float) -> None:
        if next(taken) == 10:
            assert stepper._loss is not None
            stepper._loss = stepper._loss * 4
        finish(stepper, rate)

    monkeypatch.setattr(session.Stepper, "step", spiked)
    run = new_run(tmp_path / "run", config)
    events = all_events(run)
    assert [event.step for event in of_code(events, "loss_spike")] == [10]
    kept = json.loads((run.checkpoints[-1] / "state.json").read_text())["progress"]["recent_losses"]
    assert kept == losses(events)


def test_progress_is_the_same_after_it_was_written() -> None:
    progress = Progress(step=3, recent_losses=(1.0, 2.0)).evaluated(2.0, 0.0).evaluated(3.0, 0.0)
    assert (progress.best_step, progress.best_loss, progress.stale_evaluations) == (3, 2.0, 1)
    from dataclasses import asdict

    assert Progress.from_json(json.loads(json.dumps(asdict(progress)))) == progress
    assert Progress.from_json({"step": 5, "tokens": 1, "trained_tokens": 1, "skipped_in_a_row": 0}).step == 5


def test_a_stop_during_an_evaluation_keeps_the_steps_before_it(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run: RunFolder = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, EVALUATED))
    context = TaskContext()

    def stop_at_evaluation() -> None:
        for event in train(context, str(run.path)):
            if isinstance(event, Phase) and event.name == "evaluating" and event.step == 2 and not context.control.stopping:
                context.control.stop()

    with pytest.raises(Cancelled):
        stop_at_evaluation()
    assert run.checkpoints[-1].name == "step-000002"
    assert next(event.step for event in all_events(run, resume=True) if isinstance(event, Evaluation)) == 2
