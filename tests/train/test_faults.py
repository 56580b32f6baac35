"""What can go wrong around a run, tried with real faults: each ends with the work safe and a sentence that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_studio.core.config_files import write_config
from lora_studio.core.control import Control, TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import CheckpointSaved, Notice, Paused, RunEvent, RunFinished, RunResumed, Step
from lora_studio.core.files import write_atomically
from lora_studio.core.runs import RunFolder
from lora_studio.inference.adapters import newest_whole
from lora_studio.train import disk as disk_module
from lora_studio.train import session
from lora_studio.train.engine import train
from tests.families.configs import tiny_family_model
from tests.small_disk import SmallDisk
from tests.tiny import save_tiny_tokenizer
from tests.train.helpers import all_events, losses, new_run, run_config

TinyModel = Callable[[str], Path]
QUIET = {
    "training.sample_rows": 0,
    "data.eval_fraction": 0.0,
    "training.max_steps": 6,
    "training.save_steps": 2,
    "training.save_total_limit": 3,
    "adapter.lora_dropout": 0.2,
}
FILES = ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json", "manifest.json")
DAMAGE = ("missing", "cut", "emptied", "flipped at its start", "flipped at its end", "flipped in the middle")


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
        return
    raw = bytearray(path.read_bytes())
    if how in ("cut", "emptied"):
        path.write_bytes(raw[: len(raw) // 2 if how == "cut" else 0])
        return
    place = {"start": 0, "end": len(raw) - 1, "middle": len(raw) // 2}[how.rpartition(" ")[2]]
    raw[place] ^= 1 << 4
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def stopped(tiny_model: TinyModel, chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with checkpoints of the steps 2 and 4, killed in step 6."""
    run = new_run(tmp_path_factory.mktemp("stopped") / "run", run_config(tiny_model("llama"), chat_rows, QUIET))
    for event in train(TaskContext(), str(run.path)):
        if isinstance(event, Step) and event.step == 5:
            break
    assert [folder.name for folder in run.checkpoints] == ["step-000002", "step-000004"]
    return run


@pytest.fixture(scope="module")
def whole_losses(tiny_model: TinyModel, chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(all_events(new_run(tmp_path_factory.mktemp("whole") / "run", run_config(tiny_model("llama"), chat_rows, QUIET))))


def test_any_file_of_the_newest_checkpoint_missing_cut_or_flipped_falls_back_to_the_one_before(
    stopped: RunFolder,
    whole_losses: list[float],
    tmp_path: Path,
    say: Callable[[str], None],
) -> None:
    context = TaskContext()
    found = 0
    for number, (name, how) in enumerate((name, how) for name in FILES for how in DAMAGE):
        run = RunFolder(Path(shutil.copytree(stopped.path, tmp_path / str(number))))
        damage(run.checkpoints[-1] / name, how)
        newest, broken = newest_whole(run)
        assert newest is not None, (name, how)
        assert (newest.name, [path.name for path, _fault in broken]) == ("step-000002", ["step-000004"]), (name, how)
        assert broken[0][1], (name, how)
        found += 1
        if how in ("missing", "flipped in the middle"):
            events = all_events(run, resume=True, context=context)
            assert next(event for event in events if isinstance(event, RunResumed)).from_step == 2
            told = next(event for event in events if isinstance(event, Notice) and event.code == "broken_checkpoint")
            assert "step-000004" in told.message
            assert losses(events) == whole_losses[2:]
    say(f"{found} damaged checkpoints, each found out and passed over")


def test_a_broken_checkpoint_never_costs_a_whole_one(stopped: RunFolder, whole_losses: list[float], tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(stopped.path, tmp_path / "run")))
    write_config(run.config_path, run.config.replace({"training.save_total_limit": 1, "training.save_steps": 1}))
    damage(run.checkpoints[-1] / "state.json", "cut")
    events = train(TaskContext(), str(run.path), resume=True)
    next(event for event in events if isinstance(event, CheckpointSaved))
    events.close()
    newest, broken = newest_whole(run)
    assert newest is not None
    assert (newest.name, len(broken)) == ("step-000003", 1)
    assert losses(all_events(run, resume=True)) == whole_losses[3:]
    assert [folder.name for folder in run.checkpoints] == ["step-000006"]


def test_where_no_checkpoint_is_whole_the_run_says_so_and_starts_over(
    stopped: RunFolder,
    whole_losses: list[float],
    tmp_path: Path,
) -> None:
    run = RunFolder(Path(shutil.copytree(stopped.path, tmp_path / "run")))
    for folder in run.checkpoints:
        damage(folder / "optimizer.safetensors", "cut")
    events = all_events(run, resume=True)
    assert [event.code for event in events if isinstance(event, Notice)][:2] == ["broken_checkpoint"] * 2
    assert losses(events) == whole_losses


def test_an_optimizer_that_is_not_there_is_never_passed_over_in_silence(stopped: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(stopped.path, tmp_path / "run")))
    for folder in run.checkpoints:
        (folder / "optimizer.safetensors").unlink()
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["files"]["optimizer.safetensors"]
        write_atomically(folder / "manifest.json", json.dumps(manifest))
    with pytest.raises(StudioError, match=r"optimizer\.safetensors"):
        all_events(run, resume=True)


def train_on(disk: SmallDisk, run: RunFolder, full_from: Callable[[RunEvent], bool], react: Callable[[Control], None]) -> list[RunEvent]:
    """Train a run whose disk is full from an event on; `react` is called at each pause that follows."""
    context = TaskContext()
    events: list[RunEvent] = []
    for event in train(context, str(run.path)):
        events.append(event)
        if full_from(event):
            disk.fill(run.path / "checkpoints" / "step-000002" / "state.json")
        if isinstance(event, Paused):
            react(context.control)
    return events


@pytest.fixture
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_TRY_AGAIN_S", 0.05)


@pytest.mark.usefixtures("quick_tries")
@pytest.mark.parametrize("last", [False, True])
def test_a_full_disk_is_waited_for_and_costs_no_step(
    tiny_model: TinyModel,
    chat_rows: Path,
    small_disk: SmallDisk,
    whole_losses: list[float],
    last: bool,
) -> None:
    run = new_run(small_disk.folder / "run", run_config(tiny_model("llama"), chat_rows, QUIET))
    events = train_on(
        small_disk,
        run,
        lambda event: isinstance(event, CheckpointSaved | Step) and event.step == (6 if last else 3),
        lambda _control: small_disk.make_room(),
    )
    assert losses(events) == whole_losses
    assert isinstance(events[-1], RunFinished)
    notice = next(event for event in events if isinstance(event, Notice) and event.code == "cannot_write")
    assert str(run.path) in notice.message
    assert f"The checkpoint of step {4 if last else 2} is safe." in notice.hint
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [2, 4, 6]
    assert not list(run.path.rglob(".*"))
    assert all(newest_whole(run)[0] == folder for folder in run.checkpoints[-1:])


@pytest.mark.usefixtures("quick_tries")
def test_a_full_disk_may_be_given_up_with_the_last_checkpoint_whole(
    tiny_model: TinyModel,
    chat_rows: Path,
    small_disk: SmallDisk,
    whole_losses: list[float],
) -> None:
    run = new_run(small_disk.folder / "run", run_config(tiny_model("llama"), chat_rows, QUIET))
    with pytest.raises(StudioError, match="Ended without a checkpoint of step 4") as caught:
        train_on(small_disk, run, lambda event: isinstance(event, Step) and event.step == 3, Control.abandon)
    assert "step 2 is safe" in caught.value.hint
    small_disk.make_room()
    newest, broken = newest_whole(run)
    assert newest is not None
    assert (newest.name, broken) == ("step-000002", [])
    assert losses(all_events(run, resume=True)) == whole_losses[2:]


def test_a_disk_that_is_full_from_the_start_is_told_without_a_traceback(
    tiny_model: TinyModel,
    chat_rows: Path,
    small_disk: SmallDisk,
) -> None:
    run = new_run(small_disk.folder / "run", run_config(tiny_model("llama"), chat_rows, QUIET))
    all_events(new_run(small_disk.folder.parent / "warm", run.config))  # what is prepared once is not written to this disk
    small_disk.fill(small_disk.folder / "nothing")
    with pytest.raises(StudioError) as caught:
        all_events(run)
    assert str(run.path) in caught.value.message
    small_disk.make_room()
    assert len(losses(all_events(run))) == 6


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later", 719)
        if hasattr(torch, "AcceleratorError")
        else RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_device_that_disappears_ends_the_run_with_its_checkpoint_named(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole_losses: list[float],
    error: Exception,
) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, QUIET))
    add = session.Stepper.accumulate
    calls = iter(range(1 << 30))

    def failing(stepper: session.Stepper, *arguments: object) -> None:
        if next(calls) == 4:
            raise error
        add(stepper, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session.Stepper, "accumulate", failing)
    with pytest.raises(StudioError, match="graphics card failed or is gone") as caught:
        all_events(run)
    monkeypatch.undo()
    saved = run.checkpoints[-1].name.removeprefix("step-").lstrip("0")
    assert f"step {saved} is safe" in caught.value.hint
    assert "resume" in caught.value.hint
    assert losses(all_events(run, resume=True)) == whole_losses[int(saved) :]


def test_an_error_nobody_foresaw_is_not_dressed_up(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_arguments: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(session.Stepper, "accumulate", failing)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        all_events(new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, QUIET)))


@pytest.mark.usefixtures("quick_tries")
def test_a_folder_that_turns_read_only_is_waited_for(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole_losses: list[float],
) -> None:
    """Root writes where no one else may, so the system's answer is put in its place."""
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, QUIET))
    make = Path.mkdir
    locked = {"now": False}

    def mkdir(path: Path, *arguments: object, **options: object) -> None:
        if locked["now"] and path.parent.name == "checkpoints":
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    events: list[RunEvent] = []
    for event in train(TaskContext(), str(run.path)):
        events.append(event)
        locked["now"] = (locked["now"] or (isinstance(event, Step) and event.step == 3)) and not isinstance(event, Paused)
    assert losses(events) == whole_losses
    assert "permission denied" in next(event.message for event in events if isinstance(event, Notice) and event.code == "cannot_write")


def test_other_input_errors_are_not_waited_for(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, QUIET))
    events = train(TaskContext(), str(run.path))
    next(event for event in events if isinstance(event, Step))
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "step-000002").write_text("a file where a folder is to be")
    with pytest.raises(InputError, match="exists already"):
        list(events)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("reformer", "multiple of"),
        ("gemma4_unified_assistant", "shared_kv_states"),
    ],
)
def test_rows_that_a_familys_own_code_refuses_end_a_run_in_its_words(family: str, words: str, chat_rows: Path, tmp_path: Path) -> None:
    tiny_family_model(family).save_pretrained(tmp_path / "base")
    save_tiny_tokenizer(tmp_path / "base")
    config = run_config(tmp_path / "base", chat_rows, {**QUIET, "adapter.target_modules": "all-linear"})
    with pytest.raises(StudioError, match=f"does not train the family {family} on these rows: .*{words}") as told:
        all_events(new_run(tmp_path / "run", config))
    assert told.value.field == "model.name_or_path"
