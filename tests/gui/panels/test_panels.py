"""The side panels: what they show of the draft, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QPushButton, QSlider, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from lora_studio.gui.forms import FieldRow
from lora_studio.gui.panels import AdapterPanel, BudgetPanel, DataPanel, ModelPanel, TargetsPanel, TrainingPanel
from lora_studio.gui.panels.adapter import scale_text
from lora_studio.gui.panels.presets import PRESETS
from lora_studio.gui.widgets import ComboBox, ErrorLabel, LineEdit, SegmentBar, StatTile
from tests.gui.desk import Desk
from tests.models.packed_folders import tell
from tests.tiny import save_tiny_model


def trainable(panel: BudgetPanel) -> str:
    return panel.findChild(StatTile, "stat_trainable").value


def type_batch(desk: Desk, panel: TrainingPanel, text: str) -> FieldRow:
    """Type batch × accumulation over what is there, and give the row it stands in."""
    row = panel.findChild(FieldRow, "row_training_batch")
    editor = row.findChild(LineEdit, "edit_training_batch")
    editor.selectAll()
    desk.qtbot.keyClicks(editor, text)
    desk.qtbot.keyClick(editor, Qt.Key.Key_Return)
    return row


PANELS = (ModelPanel, DataPanel, TargetsPanel, AdapterPanel, TrainingPanel, BudgetPanel)


def test_a_drag_of_the_rank_slider_is_one_undo_step(desk: Desk) -> None:
    panel = AdapterPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 400)
    slider = panel.findChild(QSlider, "rank_slider")
    assert slider is not None
    first = desk.workspace.draft.config.adapter.r
    slider.setSliderDown(True)
    for position in (4, 5, 6):
        slider.setSliderPosition(position)
    slider.setSliderDown(False)
    assert desk.workspace.draft.config.adapter.r == 64
    assert desk.workspace.draft.undo_stack.count() == 1
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.adapter.r == first
    assert 2 ** slider.value() == first


def test_the_scale_is_shown_as_it_is_used(desk: Desk) -> None:
    adapter = desk.workspace.draft.config.replace({"adapter.r": 16, "adapter.lora_alpha": 16}).adapter
    assert scale_text(adapter) == "scale α/r = 1.0"
    assert scale_text(adapter.model_copy(update={"use_rslora": True})) == "scale α/√r = 4"


def test_a_variant_sets_both_switches_at_once(desk: Desk) -> None:
    panel = AdapterPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 400)
    combo = panel.findChild(ComboBox, "edit_adapter_variant")
    desk.qtbot.keyClick(combo, "D")
    assert combo.currentText() == "DoRA"
    assert (desk.workspace.draft.config.adapter.use_rslora, desk.workspace.draft.config.adapter.use_dora) == (False, True)
    assert desk.workspace.draft.undo_stack.count() == 1


@pytest.mark.parametrize("preset", [preset.name for preset in PRESETS])
def test_a_preset_with_its_targets_is_one_undo_step(desk: Desk, preset: str) -> None:
    panel = AdapterPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 400)
    desk.until(lambda: desk.workspace.model.tree)
    desk.workspace.draft.edit({"adapter.r": 3}, "Rank")
    before = desk.workspace.draft.config
    panel.apply_preset(preset)
    assert desk.workspace.draft.config.adapter.r != 3
    assert desk.workspace.plan.resolution is not None
    assert not desk.workspace.plan.resolution.errors
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config == before


@pytest.mark.parametrize(("text", "batch", "accumulation"), [("8 × 4", 8, 4), ("8x2", 8, 2), ("6*3", 6, 3)])
def test_batch_and_accumulation_change_together(desk: Desk, text: str, batch: int, accumulation: int) -> None:
    panel = TrainingPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 400)
    batches = type_batch(desk, panel, text)
    training = desk.workspace.draft.config.training
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (batch, accumulation)
    assert batches.hint.text() == f"{batch * accumulation} rows"
    assert desk.workspace.draft.undo_stack.count() == 1


@pytest.mark.parametrize("text", ["eight", "8 ×", "0 × 2", "-1"])
def test_a_batch_that_makes_no_sense_is_refused_at_its_field(desk: Desk, text: str) -> None:
    panel = TrainingPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 400)
    before = desk.workspace.draft.config
    batches = type_batch(desk, panel, text)
    assert batches.error.isVisible()
    assert desk.workspace.draft.config is before


def test_the_number_of_steps_is_known_before_a_run(desk: Desk, chat_rows: Path) -> None:
    panel = TrainingPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 400)
    desk.workspace.draft.edit(
        {
            "data.train": (str(chat_rows),),
            "data.eval_fraction": 0.0,
            "training.per_device_train_batch_size": 4,
            "training.gradient_accumulation_steps": 2,
            "training.num_train_epochs": 2,
        },
        "Steps",
    )
    desk.until(lambda: panel.form.rows["training.num_train_epochs"].hint.text() == "6 steps")


def test_a_model_of_a_folder_shows_its_facts(desk: Desk, tiny_model: Callable[[str], Path]) -> None:
    panel = ModelPanel(desk.workspace, desk.jobs, desk.answers)
    desk.shown(panel, 440, 220)
    desk.answers.folder = tiny_model("llama")
    panel.findChild(QToolButton, "browse_model").menu().actions()[0].trigger()
    facts = panel.findChild(QLabel, "model_facts")
    desk.until(lambda: "llama · " in facts.text() and "2 layers" in facts.text())
    assert panel.note.text().startswith("folder · ")


@pytest.mark.parametrize("name", ["/no/such/folder", "not a/model/id"])
def test_a_model_that_is_not_there_is_said_in_the_panel(desk: Desk, name: str) -> None:
    panel = ModelPanel(desk.workspace, desk.jobs, desk.answers)
    desk.shown(panel, 440, 220)
    panel.choose(name)
    error = panel.findChild(ErrorLabel, "model_error")
    desk.until(error.isVisible)
    assert name in error.text()


def test_a_hub_model_is_offered_for_download_and_not_fetched_by_itself(desk: Desk) -> None:
    panel = ModelPanel(desk.workspace, desk.jobs, desk.answers)
    desk.shown(panel, 440, 220)
    panel.choose("someone/some-model")
    desk.until(lambda: desk.workspace.model.needs == "download")
    offer = panel.findChild(QPushButton, "model_act")
    assert offer.isVisible()
    assert offer.text() == "Download"
    assert not desk.jobs.jobs


def test_data_shows_rows_and_format(desk: Desk, chat_rows: Path) -> None:
    panel = DataPanel(desk.workspace, desk.jobs, desk.answers)
    desk.shown(panel, 440, 220)
    desk.answers.files = [chat_rows]
    panel.findChild(QToolButton, "browse_data").click()
    desk.until(lambda: panel.note.text() == "messages · 24 rows · 0 bad")


def test_a_bad_row_is_named_by_file_and_line(desk: Desk, chat_rows: Path, tmp_path: Path) -> None:
    panel = DataPanel(desk.workspace, desk.jobs, desk.answers)
    desk.shown(panel, 440, 220)
    file = tmp_path / "rows.jsonl"
    file.write_text(chat_rows.read_text() + '{"messages": []}\n{broken\n')
    panel.choose([file])
    error = panel.findChild(ErrorLabel, "data_error")
    desk.until(error.isVisible)
    assert error.text().startswith("rows.jsonl:25: ")
    assert "1 more bad row" in error.text()


def test_the_budget_shows_what_the_plan_says(desk: Desk) -> None:
    panel = BudgetPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 300)
    desk.until(lambda: desk.workspace.plan.plan)
    plan = desk.workspace.plan.plan
    assert plan is not None
    assert trainable(panel) == f"{plan.trainable_parameters:,}"
    assert panel.note.text().startswith("fits: ")
    assert sum(part.value for part in panel.findChild(SegmentBar, "budget_bar").segments) == plan.memory.peak_bytes


def test_the_budget_says_what_of_the_layers_is_computed_again(desk: Desk) -> None:
    panel = BudgetPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 300)
    for degree, told in (("off", "Activations"), ("layers", "one layer in 2 computed again"), ("full", "computed again")):
        desk.workspace.draft.edit({"training.gradient_checkpointing": degree}, "Degree")
        desk.until(
            lambda degree=degree: (
                desk.workspace.plan.plan and desk.workspace.plan.plan.memory.checkpointing.settings()["gradient_checkpointing"] == degree
            )
        )
        assert any(segment.label.endswith(told) for segment in panel.findChild(SegmentBar, "budget_bar").segments)


def test_how_many_layers_is_asked_only_where_it_counts(desk: Desk) -> None:
    panel = TrainingPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 900)
    row = panel.form.rows["training.gradient_checkpointing_every"]
    assert row.isHidden()
    desk.workspace.draft.edit({"training.gradient_checkpointing": "layers"}, "Degree")
    assert not row.isHidden()


def test_the_budget_of_a_run_is_not_the_drafts(desk: Desk) -> None:
    panel = BudgetPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 300)
    desk.until(lambda: desk.workspace.plan.plan)
    draft = trainable(panel)
    panel.show_config(desk.workspace.draft.config.replace({"adapter.r": 2 * desk.workspace.draft.config.adapter.r}))
    assert trainable(panel) != draft
    panel.show_config(None)
    assert trainable(panel) == draft


@pytest.mark.parametrize(
    ("field", "panel_class", "editor"),
    [
        ("model.name_or_path", ModelPanel, "model_choice"),
        ("data.train", DataPanel, "data_choice"),
        ("adapter.bias", AdapterPanel, "edit_adapter_bias"),
        ("training.seed", TrainingPanel, "edit_training_seed"),
        ("adapter.target_modules", TargetsPanel, "target_tree"),
    ],
)
def test_a_requested_field_has_the_focus_and_shows(
    desk: Desk,
    qtbot: QtBot,
    field: str,
    panel_class: type[ModelPanel],
    editor: str,
) -> None:
    panel = panel_class(desk.workspace, desk.jobs)
    desk.shown(panel, 440, 700)
    panel.activateWindow()
    desk.workspace.draft.request_field(field)
    widget = panel.findChild(QWidget, editor)
    assert widget is not None
    qtbot.waitUntil(lambda: widget.isVisible() and (widget.hasFocus() or widget.isAncestorOf(panel.focusWidget() or panel)))


@pytest.mark.parametrize("panel_class", PANELS)
def test_every_widget_of_a_panel_has_a_name(desk: Desk, panel_class: type[ModelPanel]) -> None:
    panel = panel_class(desk.workspace, desk.jobs)
    desk.shown(panel, 440, 500)
    nameless = [child for child in panel.findChildren(QWidget, options=Qt.FindChildOption.FindDirectChildrenOnly) if not child.objectName()]
    assert not nameless


@pytest.mark.parametrize("method", ["hqq", "quanto", "torchao"])
def test_the_model_card_says_that_a_quantized_base_is_not_read_here_and_the_way_out(desk: Desk, tmp_path: Path, method: str) -> None:
    folder, whole = save_tiny_model(tmp_path / "tiny-8bit"), save_tiny_model(tmp_path / "tiny")
    tell(folder, {"quant_method": method})
    panel = ModelPanel(desk.workspace, desk.jobs)
    desk.shown(panel, 300, 400)
    panel.choose(str(folder))
    error = panel.findChild(ErrorLabel, "model_error")
    assert error is not None
    desk.until(error.isVisible)
    assert f"weights quantized by {method} are not read here" in error.text()
    assert f"Choose the model in full precision, {whole}." in error.text()
    told = [item for item in desk.workspace.readiness.items if item.field == "model.name_or_path" and not item.ok]
    assert [item.name for item in told] == ["model"]
    panel.choose(str(whole))
    desk.until(lambda: not error.isVisible())
