from __future__ import annotations

import json
from pathlib import Path

import pytest
from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtWidgets import QLabel, QLineEdit, QListView, QPushButton

from lora_studio.core.events import Evaluation, Notice, RunFailed, RunFinished, RunStarted, RunStopped
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import check_files
from lora_studio.gui.data_page.row_models import RowsModel, raw_lines
from lora_studio.gui.platform.formatting import format_bytes, format_gigabytes, format_seconds, one_line
from lora_studio.gui.runs import run_control
from lora_studio.gui.runs.run_log import RunLogModel
from lora_studio.gui.runs_page.page import RunsPage
from lora_studio.gui.train_page.page import TrainPage
from lora_studio.gui.widgets import Banner, StatTile
from tests.gui.desk import Desk
from tests.gui.tasks import REFERENCE, samples, step_event

STARTED = RunStarted(
    total_steps=4, train_rows=8, eval_rows=2, trainable_parameters=4, all_parameters=40, device="cpu", compute_dtype="float32"
)
EVALUATED = Evaluation(step=4, loss=0.75, rows=2, trained_tokens=9, seconds=1)
DONE = [STARTED, *(step_event(step) for step in range(1, 5)), EVALUATED, RunFinished()]


@pytest.fixture(autouse=True)
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")


@pytest.fixture
def train_page(desk: Desk) -> TrainPage:
    page = TrainPage(desk.workspace, desk.jobs, desk.run_view, desk.starter, desk.answers)
    desk.shown(page)
    desk.until(lambda: desk.run_view.config is None or page.curves.plots)
    return page


@pytest.fixture
def runs_page(desk: Desk) -> RunsPage:
    page = RunsPage(desk.workspace, desk.jobs, desk.run_view, desk.starter, desk.queue, desk.answers)
    desk.shown(page)
    return page


def tile(page: TrainPage, name: str) -> str:
    return page.findChild(StatTile, f"tile_{name}").value


# --- Train ---


def test_before_a_run_three_ways_in_are_offered(desk: Desk, train_page: TrainPage, tmp_path: Path) -> None:
    desk.answers.files = [tmp_path / "mine.jsonl"]
    desk.qtbot.mouseClick(train_page.findChild(QPushButton, "data_button"), Qt.MouseButton.LeftButton)
    assert desk.workspace.draft.config.data.train == (str(tmp_path / "mine.jsonl"),)
    desk.answers.folder = tmp_path
    desk.qtbot.mouseClick(train_page.findChild(QPushButton, "model_button"), Qt.MouseButton.LeftButton)
    assert desk.workspace.draft.config.model.name_or_path == str(tmp_path)
    desk.qtbot.mouseClick(train_page.findChild(QPushButton, "starter_button"), Qt.MouseButton.LeftButton)
    assert desk.workspace.draft.config.name == "support-triage"


def test_what_a_start_lacks_is_listed_and_a_click_leads_to_the_field(desk: Desk, train_page: TrainPage, tmp_path: Path) -> None:
    desk.workspace.draft.edit({"data.train": (str(tmp_path / "gone.jsonl"),)}, "data")
    desk.until(lambda: any(item.name == "data" and "gone.jsonl" in item.message for item in desk.workspace.readiness.items))
    assert "gone.jsonl" in train_page.findChildren(QLabel, "readiness_data_message")[-1].text()
    with desk.qtbot.waitSignal(desk.workspace.draft.field_requested) as asked:
        train_page.findChildren(QPushButton, "readiness_data_button")[-1].click()
    assert asked.args == ["data.train"]


def test_an_opened_run_fills_tiles_plots_and_log(desk: Desk, train_page: TrainPage) -> None:
    desk.run_view.open(desk.past_run(DONE).path)
    desk.until(lambda: len(train_page.curves.plots) == 5)
    assert (tile(train_page, "loss"), tile(train_page, "eval_loss"), tile(train_page, "step")) == ("1.000", "0.750", "4 / 4")
    assert tile(train_page, "speed") == "1,000"
    assert list(train_page.curves.plots[0].curves["train"].y) == [4.0, 2.0, 4 / 3, 1.0]
    assert train_page.findChild(QListView, "run_log").model().rowCount() > 0


def test_the_plots_follow_a_live_run_to_its_last_step(desk: Desk, train_page: TrainPage) -> None:
    desk.workspace.draft.edit({"training.max_steps": 60}, "steps")
    desk.starter.start_run()
    desk.until(lambda: not desk.run_view.is_live)
    desk.until(
        lambda: (
            len(train_page.curves.plots) == 5
            and all(
                len(plot.curves[name]) == 60
                for plot, name in zip(
                    [train_page.curves.plots[i] for i in (0, 2, 3, 4)], ("train", "grad_norm", "learning_rate", "tokens_per_second")
                )
            )
        )
    )


@pytest.mark.parametrize(
    ("last", "level", "text", "cure"),
    [
        (RunFinished(), "good", "yesterday finished", "Merge this run…"),
        (RunStopped(), "warning", "yesterday stopped at step 2", "Resume"),
        (RunFailed(message="Out of memory.", hint="Use less."), "error", "yesterday: Out of memory. Use less.", "Resume"),
        (RunFailed(message="Bad rows.", field="data.train"), "error", "yesterday: Bad rows.", "Go to the setting"),
        (None, "warning", "yesterday was interrupted at step 2", "Resume"),
    ],
)
def test_the_banner_says_how_the_run_ended_and_what_to_do(
    desk: Desk,
    train_page: TrainPage,
    last: RunFinished | None,
    level: str,
    text: str,
    cure: str,
) -> None:
    desk.run_view.open(desk.past_run([STARTED, step_event(1), step_event(2), *([last] if last else [])]).path)
    banner = train_page.findChild(Banner, "run_banner")
    assert not banner.isHidden()
    assert banner.level == level
    assert banner.text.startswith(text)
    assert banner.action.text() == cure


def test_the_speed_is_told_with_the_share_of_the_device_it_takes(desk: Desk, train_page: TrainPage) -> None:
    started = STARTED.model_copy(update={"peak_flops": 8.4e11, "compute_dtype": "bfloat16"})
    desk.run_view.open(desk.past_run([started, step_event(1).model_copy(update={"utilization": 0.414})]).path)
    speed = train_page.findChild(StatTile, "tile_speed")
    assert speed.value == "1,000, 41%"
    assert "bfloat16, 840 GFLOP/s" in speed.toolTip()


def test_the_end_is_told_with_the_share_of_right_answers(desk: Desk, train_page: TrainPage) -> None:
    desk.run_view.open(desk.past_run([STARTED, *samples("before", "Hello"), *samples("after", REFERENCE), RunFinished()]).path)
    assert train_page.findChild(Banner, "run_banner").text.endswith("JSON with the right keys: 0 of 3 → 3 of 3.")


def test_resume_from_the_banner_trains_the_same_run_on(desk: Desk, train_page: TrainPage) -> None:
    desk.workspace.draft.edit({"training.max_steps": 5000}, "steps")
    path = desk.starter.start_run()
    desk.until(lambda: desk.run_view.history.step >= 6)
    desk.starter.stop()
    desk.until(lambda: desk.run_view.state == "stopped")
    train_page.findChild(Banner, "run_banner").action.click()
    desk.until(lambda: desk.run_view.is_live)
    assert desk.run_view.path == path
    assert train_page.findChild(Banner, "run_banner").isHidden()
    desk.starter.stop()
    desk.until(lambda: not desk.run_view.is_live)


@pytest.mark.parametrize(("width", "columns"), [(900, 2), (520, 1)])
def test_plots_stand_in_one_column_where_it_is_narrow(desk: Desk, train_page: TrainPage, width: int, columns: int) -> None:
    desk.run_view.open(desk.past_run(DONE).path)
    desk.until(lambda: len(train_page.curves.plots) == 5)
    train_page.resize(width, 700)
    loss, memory = train_page.curves.plots[:2]
    desk.until(lambda: (loss.y() == memory.y()) == (columns == 2) and loss.width() > 100)


def test_the_log_filters_by_kind_and_takes_new_lines_only(desk: Desk) -> None:
    model = RunLogModel()
    events = [STARTED, Notice(level="warning", code="x", message="Careful"), *samples("before", "x")]
    desk.run_view.open(desk.past_run(events).path)
    model.show_history(desk.run_view.history)
    everything = model.rowCount()
    model.set_kind("warnings")
    assert [model.index(row, 0).data(Qt.ItemDataRole.ToolTipRole) for row in range(model.rowCount())] == ["Careful"]
    model.set_kind("samples")
    assert model.rowCount() == 3
    model.set_kind("")
    desk.run_view.history.add(Notice(code="y", message="More"))
    model.sync()
    assert model.rowCount() == everything + 1


# --- Runs ---


def cells(page: RunsPage, column: int = 0) -> list[str]:
    model = page.table.model()
    return [model.index(row, column).data() for row in range(model.rowCount())]


def test_runs_are_listed_filtered_and_sorted(desk: Desk, runs_page: RunsPage) -> None:
    desk.past_run(DONE, name="alpha")
    desk.past_run([STARTED, step_event(1)], name="beta")
    runs_page.refresh()
    assert sorted(cells(runs_page)) == ["alpha", "beta"]
    runs_page.table.sortByColumn(5, Qt.SortOrder.DescendingOrder)
    assert cells(runs_page) == ["alpha", "beta"]
    runs_page.findChild(QLineEdit, "runs_filter").setText("interr")
    assert cells(runs_page) == ["beta"]


def test_enter_opens_the_run_and_leaves_the_draft(desk: Desk, runs_page: RunsPage) -> None:
    folder = desk.past_run(DONE)
    runs_page.refresh()
    before = desk.workspace.draft.config
    runs_page.table.selectRow(0)
    with desk.qtbot.waitSignal(runs_page.run_opened):
        desk.qtbot.keyClick(runs_page.table, Qt.Key.Key_Return)
    assert desk.run_view.path == folder.path
    assert desk.workspace.draft.config == before


def test_new_run_from_this_makes_its_config_the_draft_and_can_be_undone(desk: Desk, runs_page: RunsPage) -> None:
    desk.past_run(DONE, **{"adapter.r": 3})
    runs_page.refresh()
    before = desk.workspace.draft.config
    runs_page.table.selectRow(0)
    runs_page.findChild(QPushButton, "run_new_from_button").click()
    assert desk.workspace.draft.config.adapter.r == 3
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config == before


@pytest.mark.parametrize("yes", [True, False])
def test_a_run_is_deleted_only_after_the_question(desk: Desk, runs_page: RunsPage, yes: bool) -> None:
    folder = desk.past_run(DONE)
    desk.run_view.open(folder.path)
    runs_page.refresh()
    desk.answers.yes = yes
    runs_page.table.selectRow(0)
    runs_page.findChild(QPushButton, "run_delete_button").click()
    assert desk.answers.asked == [f"Delete {folder.name}?"]
    assert folder.path.exists() != yes
    assert (desk.run_view.path is None) == yes
    assert (runs_page.selected is None) == yes


def test_a_finished_run_offers_no_resume_and_its_folder_can_be_shown(desk: Desk, runs_page: RunsPage) -> None:
    folder = desk.past_run(DONE)
    runs_page.refresh()
    runs_page.table.selectRow(0)
    assert not runs_page.findChild(QPushButton, "run_resume_button").isEnabled()
    runs_page.findChild(QPushButton, "run_reveal_button").click()
    assert desk.answers.shown == [folder.path]


def test_a_run_that_went_away_is_told_and_nothing_breaks(desk: Desk, runs_page: RunsPage) -> None:
    folder = desk.past_run(DONE)
    runs_page.refresh()
    runs_page.table.selectRow(0)
    folder.config_path.unlink()
    runs_page.open_selected()
    assert desk.notices[-1][0] == "error"
    assert "run.yaml" in desk.notices[-1][1]


# --- Data ---


def test_every_row_of_a_long_file_can_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(25_000)), encoding="utf-8")
    settings = DataSettings(train=(str(path),))
    model = RowsModel()
    model.set_check(check_files(settings), settings)
    assert model.rowCount() == 10_000
    while model.canFetchMore(QModelIndex()):
        model.fetchMore(QModelIndex())
    assert model.rowCount() == 25_000
    assert [model.index(n, 2).data() for n in (24_999, 0, 12_345)] == ["row 24999", "row 0", "row 12345"]


def test_a_line_of_a_file_that_is_gone_says_so(tmp_path: Path) -> None:
    assert "does not exist" in raw_lines(str(tmp_path / "gone"), 3)


# --- units ---


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [format_bytes(n) for n in (999, 2000, 269e6, 1.9e9)] == ["999 bytes", "2.0 kB", "269 MB", "1.9 GB"]
    assert [format_gigabytes(n) for n in (0.27e9, 24e9)] == ["0.27", "24.0"]
    assert [format_seconds(n) for n in (0.041, 8.2, 72, 7500)] == ["41 ms", "8 s", "1 m 12 s", "2 h 05 m"]
    assert one_line("a\n b" + "c" * 100, 10) == "a bcccccc…"
