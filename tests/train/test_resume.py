from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import Control, TaskContext
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import CheckpointSaved, Evaluation, Notice, Paused, RunEvent, RunResumed, Sample, Step
from lora_studio.core.files import sha256_of
from lora_studio.core.runs import RunFolder
from lora_studio.kernels.batches import Batch
from lora_studio.train.engine import train
from lora_studio.train.stepper import Stepper
from tests.tiny import save_tiny_model
from tests.train.helpers import all_events, losses, new_run, run_config

TinyModel = Callable[[str], Path]
When = Callable[[RunEvent], bool]

ADVERSE = {
    "adapter.lora_dropout": 0.2,
    "training.per_device_train_batch_size": 2,
    "training.gradient_accumulation_steps": 2,
    "training.warmup_steps": 2,
    "training.weight_decay": 0.01,
    "training.save_steps": 3,
}


def stop_at(run: RunFolder, when: When, ask: Callable[[Control], None] = Control.stop, resume: bool = False) -> list[RunEvent]:
    """Train until `when` says so, then ask for an end; give the events that came."""
    events, cancelled = run_until_end(run, lambda event, control: when(event) and ask(control), TaskContext(), resume)
    assert cancelled
    return events


def run_until_end(
    run: RunFolder,
    react: Callable[[RunEvent, Control], object],
    context: TaskContext,
    resume: bool = False,
) -> tuple[list[RunEvent], bool]:
    """Train, letting `react` see each event; give the events that came, and whether the run ended cancelled."""
    events: list[RunEvent] = []
    try:
        for event in train(context, str(run.path), resume):
            events.append(event)
            react(event, context.control)
    except Cancelled:
        return events, True
    return events, False


def after_step(number: int) -> When:
    return lambda event: isinstance(event, Step) and event.step == number


def tokens(events: list[RunEvent]) -> list[tuple[int, int]]:
    return [(event.tokens, event.trained_tokens) for event in events if isinstance(event, Step)]


def adapter_bytes(run: RunFolder) -> bytes:
    return (run.adapter_path / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter.bias": "all", "adapter.use_dora": True},
        {"adapter.modules_to_save": ("lm_head",)},
        {"data.packing": True, "data.max_length": 192},
    ],
)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    changes: dict[str, object],
) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {**ADVERSE, **changes})
    whole = new_run(tmp_path / "whole", config)
    whole_events = all_events(whole)

    cut = new_run(tmp_path / "cut", config)
    first = stop_at(cut, after_step(4))
    assert [folder.name for folder in cut.checkpoints] == ["step-000003", "step-000004"]
    rest = all_events(cut, resume=True)
    resumed = next(event for event in rest if isinstance(event, RunResumed))
    assert resumed.from_step == 4
    assert losses(first) + losses(rest) == losses(whole_events)
    assert adapter_bytes(cut) == adapter_bytes(whole)
    assert tokens(first + rest) == tokens(whole_events)


def test_a_stop_takes_effect_between_micro_batches_and_saves_the_last_whole_step(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, ADVERSE))
    context = TaskContext()
    real_add = Stepper.accumulate
    added: list[int] = []

    def add(stepper: Stepper, batch: Batch, trained_tokens: int, seed: int) -> None:
        real_add(stepper, batch, trained_tokens, seed)
        added.append(seed)
        if len(added) == 11:  # the first of two micro-batches of step 6
            context.control.stop()

    monkeypatch.setattr(Stepper, "accumulate", add)
    events, cancelled = run_until_end(run, lambda _event, _control: None, context)
    assert cancelled
    assert len(added) == 11
    assert [event.step for event in events if isinstance(event, Step)][-1] == 5
    assert isinstance(events[-1], CheckpointSaved)
    assert run.checkpoints[-1].name == "step-000005"
    assert not run.adapter_path.exists()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_second_stop_drops_the_micro_batch_and_keeps_the_last_checkpoint(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    direction: str,
) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {**ADVERSE, "training.sample_rows": 0}))
    context = TaskContext()
    real_add = Stepper.accumulate
    reached: list[str] = []

    def add(stepper: Stepper, *arguments: object) -> None:
        if direction == "forward" and len(reached) == 9:  # in step 5, two micro-batches a step
            context.control.abandon()
        if direction == "backward" and len(reached) == 9:
            head = stepper.model.get_output_embeddings()
            head.register_forward_hook(lambda *_arguments: context.control.abandon())
        reached.append("begun")
        real_add(stepper, *arguments)  # type: ignore[arg-type]
        reached[-1] = "done"

    monkeypatch.setattr(Stepper, "accumulate", add)
    with pytest.raises(Cancelled):
        list(train(context, str(run.path)))
    assert reached == ["done"] * 9 + ["begun"]
    assert [folder.name for folder in run.checkpoints] == ["step-000003"]


def test_a_pause_saves_waits_and_goes_on_as_if_nothing_had_been(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {**ADVERSE, "training.save_steps": 100})
    whole_losses = losses(all_events(new_run(tmp_path / "whole", config)))
    run = new_run(tmp_path / "run", config)
    context = TaskContext()
    events: list[RunEvent] = []
    for event in train(context, str(run.path)):
        events.append(event)
        if after_step(4)(event):
            context.control.pause()
        if isinstance(event, Paused):
            assert run.checkpoints[-1].name == "step-000004"
            context.control.resume()
    assert sum(isinstance(event, Paused) for event in events) == 1
    assert losses(events) == whole_losses


def test_a_pause_can_be_ended_by_a_stop(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, ADVERSE))

    def react(event: RunEvent, control: Control) -> None:
        if after_step(2)(event):
            control.pause()
        if isinstance(event, Paused):
            control.stop()

    assert run_until_end(run, react, TaskContext())[1]
    assert [folder.name for folder in run.checkpoints] == ["step-000002"]


def test_checkpoint_and_samples_come_when_asked_for(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {**ADVERSE, "training.save_steps": 100}))
    context = TaskContext()
    events: list[RunEvent] = []
    for event in train(context, str(run.path)):
        events.append(event)
        if after_step(2)(event):
            context.control.checkpoint_now()
            context.control.sample_now()
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [2, 10]
    assert [(event.step, event.row) for event in events if isinstance(event, Sample) and event.label == "step"] == [(2, 0), (2, 1)]


def test_samples_and_evaluations_do_not_disturb_training(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    quiet = run_config(tiny_model("llama"), chat_rows, {**ADVERSE, "training.sample_rows": 0, "training.eval_steps": 100})
    busy = quiet.replace({"training.sample_rows": 3, "training.eval_steps": 1})
    assert losses(all_events(new_run(tmp_path / "quiet", quiet))) == losses(all_events(new_run(tmp_path / "busy", busy)))


def test_a_broken_checkpoint_is_told_of_and_the_one_before_taken(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, ADVERSE))
    stop_at(run, after_step(7))
    assert [folder.name for folder in run.checkpoints] == ["step-000003", "step-000006", "step-000007"]
    weights = run.checkpoints[-1] / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1  # one bit, which safetensors would load without a word
    weights.write_bytes(raw)
    (run.checkpoints[-2] / "optimizer.safetensors").unlink()

    events = all_events(run, resume=True)
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any("step-000007" in text and "adapter_model.safetensors" in text for text in notices)
    assert any("step-000006" in text and "optimizer.safetensors is missing" in text for text in notices)
    assert next(event for event in events if isinstance(event, RunResumed)).from_step == 3


def test_resuming_without_a_checkpoint_starts_at_step_0(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model("llama"), chat_rows, ADVERSE)
    run = new_run(tmp_path / "run", config)
    stop_at(run, lambda event: isinstance(event, Evaluation))
    assert not run.checkpoints
    events = all_events(run, resume=True)
    assert next(event for event in events if isinstance(event, RunResumed)).from_step == 0
    assert losses(events) == losses(all_events(new_run(tmp_path / "whole", config)))


@pytest.mark.parametrize(
    ("what", "told", "field"),
    [
        ("data", r"rows.jsonl has other content \(sha256 \w{8} before, \w{8} now\)", "data.train"),
        ("weights", r"the weights of .*model are others", "model.name_or_path"),
        ("tokenizer", "the tokenizer is another", "model.name_or_path"),
        ("rank", "adapter.r was 4 and is 8", "adapter.r"),
    ],
)
def test_a_run_goes_on_only_as_it_began_and_is_a_warm_start_otherwise(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    what: str,
    told: str,
    field: str,
) -> None:
    model, data = tmp_path / "model", tmp_path / "rows.jsonl"
    shutil.copytree(tiny_model("llama"), model)
    shutil.copy(chat_rows, data)
    run = new_run(tmp_path / "run", run_config(model, data, {**ADVERSE, "training.sample_rows": 0}))
    stop_at(run, after_step(2))
    match what:
        case "data":
            data.write_text(data.read_text().replace("parcel", "basket"))
        case "weights":
            shutil.rmtree(model)
            save_tiny_model(model, "llama", seed=5)
        case "tokenizer":
            tokenizer = json.loads((model / "tokenizer.json").read_text())
            tokenizer["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
            (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        case _:
            write_config(run.config_path, run.config.replace({"adapter.r": 8, "adapter.lora_alpha": 8}))
    again = RunFolder.open(run.path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=told) as refused:
        all_events(again, resume=True)
    assert refused.value.field == field
    assert f"adapter.warm_start to {run.path}" in refused.value.hint
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before

    warm = new_run(tmp_path / "warm", again.config.replace({"adapter.warm_start": str(run.path), "training.max_steps": 1}))
    assert any(event.code == "warm_start" for event in all_events(warm) if isinstance(event, Notice))


def test_what_decides_no_number_may_be_changed_in_a_runs_folder(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model("llama"), chat_rows, ADVERSE)
    whole = all_events(new_run(tmp_path / "whole", config))
    run = new_run(tmp_path / "run", config)
    stop_at(run, after_step(2))
    write_config(run.config_path, config.replace({"name": "renamed", "training.save_steps": 1, "training.sample_rows": 0}))
    assert losses(all_events(RunFolder.open(run.path), resume=True)) == losses(whole)[2:]


def test_the_environment_of_the_first_attempt_is_kept_and_anothers_added(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {**ADVERSE, "training.sample_rows": 0}))
    stop_at(run, after_step(2))
    first = json.loads((run.path / "environment.json").read_text())
    stop_at(run, after_step(4), resume=True)
    assert json.loads((run.path / "environment.json").read_text()) == first
    monkeypatch.setattr("lora_studio.train.records.device_name", lambda _device: "another machine")
    all_events(run, resume=True)
    kept = json.loads((run.path / "environment.json").read_text())
    assert [attempt["device"]["name"] for attempt in kept.pop("resumed")] == ["another machine"]
    assert kept == first


def test_a_checkpoint_for_other_modules_is_refused(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model("llama"), chat_rows, ADVERSE)
    run = new_run(tmp_path / "run", config)
    stop_at(run, after_step(3))
    other = new_run(tmp_path / "other", config.replace({"adapter.target_modules": ("q_proj",)}))
    (run.path / "checkpoints").rename(other.path / "checkpoints")
    with pytest.raises(InputError, match=r"adapter\.target_modules was"):
        all_events(other, resume=True)
    forget_settings(other.checkpoints[-1])
    with pytest.raises(StudioError, match="cannot be resumed from"):
        all_events(other, resume=True)


def forget_settings(checkpoint: Path) -> None:
    """Make a checkpoint one from before settings were kept in it."""
    state = json.loads((checkpoint / "state.json").read_text())
    del state["config"]
    (checkpoint / "state.json").write_text(json.dumps(state))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["state.json"] = sha256_of(checkpoint / "state.json")
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_checkpoint_lists_a_hash_of_every_file_and_holds_no_pickle(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, ADVERSE))
    stop_at(run, after_step(3))
    folder = run.checkpoints[-1]
    names = {path.name for path in folder.iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json", "manifest.json"}
    assert json.loads((folder / "manifest.json").read_text())["files"].keys() == names - {"manifest.json"}
    state = json.loads((folder / "state.json").read_text())
    assert state["progress"]["step"] == 3
    moments = load_file(folder / "optimizer.safetensors")
    assert {key.rpartition("|")[2] for key in moments} == {"step", "exp_avg", "exp_avg_sq"}


def as_written_before(run: RunFolder) -> None:
    """Take the settings out of a run's `run.yaml` that are younger than the first runs."""
    tree = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    for name in ("chat_template_kwargs", "on_unwritten", "answer_opening"):
        del tree["data"][name]
    run.config_path.write_text(yaml.safe_dump(tree), encoding="utf-8")


def test_a_run_from_before_lost_thoughts_were_refused_goes_on_with_its_rows(tiny_model: TinyModel, tmp_path: Path) -> None:
    rows = tmp_path / "thoughts.jsonl"
    answers = [{"role": "assistant", "content": f"answer {number}", "reasoning_content": f"thinking {number}"} for number in range(12)]
    rows.write_text("\n".join(json.dumps({"messages": [{"role": "user", "content": "q"}, answer]}) for answer in answers), encoding="utf-8")
    was = {"data.on_unwritten": "without", "data.answer_opening": "context"}
    config = run_config(tiny_model("llama"), rows, {**was, "training.save_steps": 1, "training.sample_rows": 0})
    whole = new_run(tmp_path / "whole", config)
    whole_events = all_events(whole)
    cut = new_run(tmp_path / "cut", config)
    first = stop_at(cut, after_step(2))
    as_written_before(cut)
    cut = RunFolder.open(cut.path)
    assert losses(first) + losses(all_events(cut, resume=True)) == losses(whole_events)
    assert adapter_bytes(cut) == adapter_bytes(whole)
    kept = yaml.safe_load(cut.config_path.read_text(encoding="utf-8"))["data"]
    assert (kept["on_unwritten"], kept["answer_opening"], kept["chat_template_kwargs"]) == ("without", "context", {})


def test_a_run_that_names_the_setting_keeps_its_own(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", RunConfig())
    assert (run.config.data.on_unwritten, run.config.data.answer_opening) == ("refuse", "trained")
