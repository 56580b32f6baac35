"""Run folders: exclusive, locked by one writer, readable whatever happened to them."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import (
    Evaluation,
    Memory,
    RunEvent,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    Step,
    event_to_json,
)
from lora_studio.core.history import RunHistory
from lora_studio.core.run_index import INDEX_NAME
from lora_studio.core.run_store import RunStore, slug
from lora_studio.core.runs import RunFolder, last_line

CONFIG = RunConfig(name="Support triage").replace({"adapter.r": 4, "adapter.lora_alpha": 12})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def step(number: int, loss: float = 1.0, **stamps: float) -> Step:
    return Step.model_validate(
        {
            "step": number,
            "loss": loss,
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "tokens": 1,
            "trained_tokens": 1,
            "tokens_per_second": 1.0,
            "epoch": 0.0,
            "seconds": 0.1,
            **stamps,
        }
    )


def started(total_steps: int = 9, **stamps: float) -> RunStarted:
    return RunStarted.model_validate(
        {
            "total_steps": total_steps,
            "train_rows": 1,
            "eval_rows": 1,
            "trainable_parameters": 1,
            "all_parameters": 2,
            "device": "cpu",
            "compute_dtype": "float32",
            **stamps,
        }
    )


def write(folder: RunFolder, *events: RunEvent) -> None:
    with folder.events_path.open("a", encoding="utf-8") as file:
        file.writelines(f"{event_to_json(event)}\n" for event in events)


def test_a_run_is_named_by_date_time_and_name(store: RunStore) -> None:
    folder = store.create(CONFIG)
    date, time_of_day, name = folder.name.split("-", 2)
    assert len(date) == 8
    assert len(time_of_day) == 6
    assert name == "support-triage"
    assert folder.path.parent == store.root.resolve()


def test_runs_made_in_the_same_second_get_folders_of_their_own(store: RunStore) -> None:
    assert len({store.create(CONFIG).path for _ in range(5)}) == 5


def test_run_yaml_is_exactly_the_config(store: RunStore) -> None:
    folder = store.create(CONFIG)
    assert RunFolder(folder.path).config == CONFIG
    assert [path.name for path in folder.path.iterdir()] == ["run.yaml"]


def test_an_output_names_the_folder_itself(store: RunStore, tmp_path: Path) -> None:
    assert store.create(CONFIG, tmp_path / "deep" / "mine").path == tmp_path / "deep" / "mine"
    assert not store.root.exists()


def test_an_empty_output_folder_is_taken(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert store.create(CONFIG, tmp_path / "mine").state == "new"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_that_holds_something_is_refused_untouched(store: RunStore, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "mine"
    kept = output / "work.txt" if kind == "folder" else output
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    with pytest.raises(InputError, match="mine exists already"):
        store.create(CONFIG, output)
    assert kept.read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses even root")
def test_an_output_that_cannot_be_written_is_named(store: RunStore) -> None:
    with pytest.raises(InputError, match="/proc/run"):
        store.create(CONFIG, Path("/proc/run"))


def test_an_output_below_a_file_is_named(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=str(tmp_path / "file")):
        store.create(CONFIG, tmp_path / "file" / "run")


def test_a_failed_write_leaves_no_folder(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora_studio.core.run_store.write_atomically", full)
    with pytest.raises(InputError, match="No space left"):
        store.create(CONFIG)
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Support triage", "support-triage"),
        ("Hé llo_2", "he-llo-2"),
        ("日本", "run"),
        ("a..b+c", "a-b-c"),
    ],
)
def test_slugs_are_plain_file_names(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (RunFinished(), "finished"),
        (RunStopped(), "stopped"),
        (RunFailed(message="x"), "failed"),
        (step(3), "interrupted"),
    ],
)
def test_a_run_is_what_its_last_event_says(store: RunStore, last: RunEvent, state: str) -> None:
    folder = store.create(CONFIG)
    assert folder.state == "new"
    write(folder, started(), last)
    assert folder.state == state


def test_a_torn_last_line_is_passed_over(store: RunStore) -> None:
    folder = store.create(CONFIG)
    write(folder, started(), RunStopped())
    with folder.events_path.open("ab") as file:
        file.write(b'{"seq": 3, "event": "run_fini')
    assert folder.state == "stopped"
    assert [event.event for event in folder.events()] == ["run_started", "run_stopped"]


def test_the_last_line_is_found_behind_a_long_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"a": 1}\n{"long": "' + "x" * 300_000 + '"}\n{"torn": "' + "y" * 300_000, encoding="utf-8")
    found = last_line(path)
    assert found is not None
    assert list(found) == ["long"]
    assert last_line(tmp_path / "none") is None


def test_a_locked_run_is_running_and_a_second_writer_is_refused(store: RunStore) -> None:
    folder = store.create(CONFIG)
    with folder.lock():
        assert folder.state == "running"
        with pytest.raises(StudioError, match="Another program is writing"), folder.lock():
            pass
    assert folder.state == "new"


def test_the_lock_goes_with_the_process_that_held_it(store: RunStore) -> None:
    folder = store.create(CONFIG)
    write(folder, started())
    script = (
        "import os, sys; from pathlib import Path; from lora_studio.core.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print(RunFolder(Path(sys.argv[1])).state, flush=True); os.abort()"
    )
    held = subprocess.run([sys.executable, "-c", script, str(folder.path)], capture_output=True, text=True, check=False)
    assert held.stdout.strip() == "running"
    assert folder.state == "interrupted"


def test_looking_at_the_state_never_keeps_a_writer_out(store: RunStore) -> None:
    folder = store.create(CONFIG)
    context = multiprocessing.get_context("spawn")
    looker = context.Process(target=_look_often, args=(folder.path,))
    looker.start()
    for _ in range(200):
        with folder.lock():
            pass
    looker.join()
    assert looker.exitcode == 0


def _look_often(path: Path) -> None:
    for _ in range(2000):
        assert RunFolder(path).state in ("new", "running")


def test_a_deleted_run_is_gone_and_a_live_one_is_not_deleted(store: RunStore) -> None:
    folder = store.create(CONFIG)
    with folder.lock(), pytest.raises(StudioError):
        folder.delete()
    folder.delete()
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize(("make", "told"), [(False, "There is no folder"), (True, "it has no run.yaml")])
def test_opening_what_is_no_run_says_so(tmp_path: Path, make: bool, told: str) -> None:
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=told):
        RunFolder.open(tmp_path / "x")


def test_checkpoints_and_exports_are_the_whole_ones_in_order(store: RunStore) -> None:
    folder = store.create(CONFIG)
    for name in ("step-000020", "step-000100", ".step-000120.x.part"):
        (folder.path / "checkpoints" / name).mkdir(parents=True)
    for name in ("merged", ".x.part"):
        (folder.exports_path / name).mkdir(parents=True)
    assert [path.name for path in folder.checkpoints] == ["step-000020", "step-000100"]
    assert [path.name for path in folder.exports] == ["merged"]


def test_a_summary_adds_up_the_events(store: RunStore) -> None:
    folder = store.create(CONFIG)
    write(
        folder,
        started(9, time=100.0),
        step(1, 3.0, time=101),
        Evaluation(loss=2.5, rows=1, trained_tokens=1, seconds=1.0, time=102),
        step(2, 2.0, time=103),
        Evaluation(loss=2.7, rows=1, trained_tokens=1, seconds=1.0, time=104),
        Memory(resident=1, time=105),
    )
    write(
        folder,
        RunResumed(from_step=1, total_steps=9, attempt=2, time=1000),
        step(2, 1.5, attempt=2, time=1002),
        RunFinished(attempt=2, time=1003),
    )
    (summary,) = store.list()
    assert summary.path == folder.path
    assert (summary.name, summary.state, summary.base_model, summary.r, summary.lora_alpha) == (
        "Support triage",
        "finished",
        CONFIG.model.name_or_path,
        4,
        12,
    )
    assert (summary.started, summary.steps, summary.total_steps, summary.last_loss, summary.best_eval) == (100.0, 2, 9, 1.5, 2.5)
    assert summary.duration == pytest.approx(4 + 3)


def test_a_loss_that_is_no_number_is_not_listed_as_one(store: RunStore) -> None:
    write(store.create(CONFIG), started(time=1), step(1, float("nan"), time=2))
    assert store.list()[0].last_loss is None


def test_what_was_done_again_counts_as_it_was_done_last(store: RunStore) -> None:
    folder = store.create(CONFIG)
    first = Evaluation(step=10, time=4, loss=1.0, rows=1, trained_tokens=1, seconds=1)
    write(folder, started(time=1), step(5, time=2), step(10, 0.5, time=3), first)
    write(
        folder,
        RunResumed(from_step=5, total_steps=10, attempt=2, time=9),
        step(10, 0.7, attempt=2, time=10),
        first.model_copy(update={"attempt": 2, "time": 11, "loss": 1.5}),
    )
    listed, opened = store.list()[0], RunHistory.replay(folder.events_path)
    assert (listed.best_eval, listed.last_loss) == (1.5, 0.7) == (min(opened.evaluation.y), opened.loss.last)


def test_the_latest_run_comes_first_and_one_not_started_before_all(store: RunStore) -> None:
    folders = [store.create(CONFIG) for _ in range(3)]
    write(folders[0], started(time=300.0))
    write(folders[1], started(time=500.0))
    assert [run.path for run in store.list()] == [folders[2].path, folders[1].path, folders[0].path]


def test_the_list_follows_runs_that_change_appear_and_go(store: RunStore) -> None:
    first, second = store.create(CONFIG), store.create(CONFIG)
    assert len(store.list()) == 2
    write(first, started(), RunFinished())
    second.delete()
    assert [run.state for run in store.list()] == ["finished"]


def test_a_run_that_dies_is_listed_as_interrupted_though_no_file_changed(store: RunStore) -> None:
    folder = store.create(CONFIG)
    write(folder, started(time=1.0), step(1, time=2.0))
    with folder.lock():
        assert store.list()[0].state == "running"
    assert store.list()[0].state == "interrupted"


@pytest.mark.parametrize("damage", ["missing", "garbage", "empty", "other_version", "other_table"])
def test_the_index_is_made_again_from_the_folders(store: RunStore, damage: str) -> None:
    write(store.create(CONFIG), started(), step(1), RunFinished())
    expected = store.list()
    index = store.root / INDEX_NAME
    assert index.exists()
    index.unlink()
    if damage == "garbage":
        index.write_bytes(b"no database at all" * 1000)
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage != "missing":
        with sqlite3.connect(index) as database:
            database.execute("CREATE TABLE runs (folder TEXT PRIMARY KEY, other TEXT)")
            database.execute(f"PRAGMA user_version={99 if damage == 'other_version' else 1}")
        database.close()
    assert store.list() == expected
    assert store.list() == expected


def test_folders_that_hold_no_readable_run_are_left_out(store: RunStore) -> None:
    folder = store.create(CONFIG)
    (store.root / "notes").mkdir()
    (store.root / "broken").mkdir()
    (store.root / "broken" / "run.yaml").write_text("adapter: {r: 0}")
    (store.root / "file.txt").write_text("")
    assert [run.path for run in store.list()] == [folder.path]
    assert [run.path for run in store.list()] == [folder.path]


def test_no_folder_is_made_by_listing(store: RunStore) -> None:
    assert store.list() == []
    assert not store.root.exists()


def test_an_indexed_run_is_not_read_again(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        write(store.create(CONFIG), started(), RunFinished())
    expected = store.list()

    def read_again(*_arguments: object) -> None:
        raise AssertionError("a run was read though nothing changed")

    monkeypatch.setattr("lora_studio.core.run_index._row", read_again)
    assert store.list() == expected


def test_two_programs_can_list_at_once(store: RunStore) -> None:
    for _ in range(20):
        write(store.create(CONFIG), started(), RunFinished())
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        assert pool.map(_count, [store.root] * 8) == [20] * 8


def _count(root: Path) -> int:
    return len(RunStore(root).list())
