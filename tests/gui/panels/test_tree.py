"""The target tree: ticks that become settings, and settings that become ticks."""

from __future__ import annotations

import re

import pytest
from PySide6.QtCore import QEvent, QModelIndex, QObject, Qt
from PySide6.QtGui import QPaintEvent, QRegion
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QApplication, QLineEdit, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from lora_studio.core.counts import trainable_parameters
from lora_studio.gui.panels.targets import TargetsPanel
from lora_studio.gui.panels.tree.model import ALPHA, MODULE, RANK, SHAPE, TRAINABLE
from lora_studio.gui.panels.tree.nodes import Filter, lay_out, shown_by
from lora_studio.gui.widgets import ErrorLabel, Pills
from tests.gui.desk import Desk

LAYERS = 30
CHECK = Qt.ItemDataRole.CheckStateRole


class PaintedRegions(QObject):
    """What of a widget was painted since this was made."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self.region = QRegion()
        QApplication.sendPostedEvents()
        QApplication.processEvents()
        widget.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        if isinstance(event, QPaintEvent):
            self.region = self.region.united(event.region())
        return False


@pytest.fixture
def panel(desk: Desk) -> TargetsPanel:
    """The panel with the starter's tree, q_proj and v_proj ticked."""
    made = TargetsPanel(desk.workspace, desk.jobs)
    desk.shown(made, 440, 700)
    desk.until(lambda: desk.workspace.model.tree)
    desk.workspace.draft.edit({"adapter.target_modules": ("q_proj", "v_proj"), "adapter.r": 8, "adapter.lora_alpha": 16}, "Start")
    desk.workspace.draft.undo_stack.clear()
    return made


def type_filter(panel: TargetsPanel, text: str) -> None:
    panel.findChild(QLineEdit, "target_filter").setText(text)


def at(panel: TargetsPanel, name: str, column: int = MODULE) -> QModelIndex:
    return panel.model.index_of(panel.model.nodes.node_of[name], column)


def state(panel: TargetsPanel, name: str) -> Qt.CheckState:
    return at(panel, name).data(CHECK)


def shown_names(panel: TargetsPanel) -> list[str]:
    return [name for name, shown in zip(panel.model.nodes.names, panel.model.shown.tolist(), strict=True) if shown]


@pytest.mark.parametrize("grouping", ["layer", "name"])
@pytest.mark.parametrize("text", ["", "q_proj", "layers.1?.mlp", "no such name"])
def test_the_model_keeps_qts_rules(panel: TargetsPanel, grouping: str, text: str) -> None:
    tester = QAbstractItemModelTester(panel.model, QAbstractItemModelTester.FailureReportingMode.Warning)
    panel.set_grouping(grouping)  # type: ignore[arg-type]
    panel.model.set_filter(text)
    panel.model.toggle([panel.model.index(0, 0)])
    tester.deleteLater()


def test_a_tick_is_one_undoable_edit_of_the_draft(desk: Desk, panel: TargetsPanel) -> None:
    assert panel.model.setData(at(panel, "model.layers.0"), Qt.CheckState.Checked, CHECK)
    assert {target.name for target in desk.workspace.plan.resolution.targets if ".0." in target.name} == {  # type: ignore[union-attr]
        name for name in panel.model.nodes.names if name.startswith("model.layers.0.") and name.endswith("_proj")
    }
    assert desk.workspace.draft.undo_stack.count() == 1
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.adapter.target_modules == ("q_proj", "v_proj")
    assert state(panel, "model.layers.0.mlp") == Qt.CheckState.Unchecked


def test_undo_paints_every_row_that_changed(desk: Desk, panel: TargetsPanel, qtbot: QtBot) -> None:
    panel.model.setData(at(panel, "model.layers.0"), Qt.CheckState.Checked, CHECK)
    painted = PaintedRegions(panel.view.viewport())
    row = panel.view.visualRect(at(panel, "model.layers.0.self_attn.k_proj"))
    assert panel.view.viewport().rect().contains(row)
    desk.workspace.draft.undo_stack.undo()
    qtbot.waitUntil(lambda: painted.region.contains(row.center()))


def test_unticking_layer_0_leaves_the_other_layers(desk: Desk, panel: TargetsPanel) -> None:
    panel.model.setData(at(panel, "model.layers.0"), Qt.CheckState.Checked, CHECK)
    panel.model.setData(at(panel, "model.layers.0"), Qt.CheckState.Unchecked, CHECK)
    names = {target.name for target in desk.workspace.plan.resolution.targets}  # type: ignore[union-attr]
    assert len(names) == 2 * (LAYERS - 1)
    assert not any(name.startswith("model.layers.0.") for name in names)


def test_a_click_on_a_partial_box_ticks_all_of_it_and_never_sets_partial(panel: TargetsPanel) -> None:
    assert state(panel, "model") == Qt.CheckState.PartiallyChecked
    panel.model.setData(at(panel, "model"), Qt.CheckState.PartiallyChecked, CHECK)
    assert state(panel, "model") == Qt.CheckState.Checked
    assert not at(panel, "model").flags() & Qt.ItemFlag.ItemIsUserTristate


def test_what_shows_at_once_is_what_the_draft_then_says(desk: Desk, panel: TargetsPanel) -> None:
    seen: list[str] = []
    before = at(panel, "model", TRAINABLE).data()
    drafts: list[object] = []
    panel.model.dataChanged.connect(lambda *_: seen.append(at(panel, "model", TRAINABLE).data()))
    panel.model.dataChanged.connect(lambda *_: drafts.append(desk.workspace.draft.config.adapter))
    adapter = desk.workspace.draft.config.adapter
    panel.model.toggle([at(panel, "model.layers.3.mlp")])
    assert drafts[0] is adapter, "the first paint comes before the draft is told"
    assert desk.workspace.draft.config.adapter is not adapter
    assert seen[0] == at(panel, "model", TRAINABLE).data()
    assert seen[0] != before


def test_the_note_counts_what_the_plan_counts(desk: Desk, panel: TargetsPanel) -> None:
    panel.model.toggle([at(panel, "model.layers.3.mlp.up_proj")])
    resolution, tree = desk.workspace.plan.resolution, desk.workspace.model.tree
    assert resolution is not None
    assert tree is not None
    count = trainable_parameters(desk.workspace.draft.config.adapter, tree, resolution)
    assert panel.note.text() == f"61 of 210 linear · {count:,} trainable"
    assert count == LAYERS * 8 * (576 + 576 + 576 + 192) + 8 * (576 + 1536)


def test_settings_typed_as_yaml_show_as_ticks(desk: Desk, panel: TargetsPanel) -> None:
    desk.workspace.draft.edit(
        {
            "adapter.target_modules": ("mlp.up_proj", "k_proj"),
            "adapter.layers_to_transform": (1, 2),
            "adapter.rank_pattern": {"layers.1.self_attn.k_proj": 32},
        },
        "YAML",
    )
    assert state(panel, "model.layers.1.mlp.up_proj") == Qt.CheckState.Checked
    assert state(panel, "model.layers.3.mlp.up_proj") == Qt.CheckState.Unchecked
    assert at(panel, "model.layers.1.self_attn.k_proj", RANK).data() == "32"
    assert at(panel, "model.layers.2.self_attn.k_proj", RANK).data() == "8"


def test_overlapping_patterns_are_rewritten_by_the_next_tick(desk: Desk, panel: TargetsPanel) -> None:
    desk.workspace.draft.edit({"adapter.rank_pattern": {"layers.0.self_attn.q_proj": 16, "q_proj": 4}}, "YAML")
    panel.model.toggle([at(panel, "model.layers.5.mlp.up_proj")])
    keys = list(desk.workspace.draft.config.adapter.rank_pattern)
    for name in (f"model.layers.{layer}.self_attn.q_proj" for layer in range(LAYERS)):
        assert sum(bool(re.match(rf"(.*\.)?({key})$", name)) for key in keys) == 1
    assert at(panel, "model.layers.0.self_attn.q_proj", RANK).data() == "16"
    assert at(panel, "model.layers.1.self_attn.q_proj", RANK).data() == "4"


def test_what_cannot_be_targeted_is_in_its_place_and_says_why(panel: TargetsPanel) -> None:
    for name in ("model.embed_tokens", "model.layers.0.input_layernorm", "lm_head"):
        index = at(panel, name)
        assert index.data(CHECK) is None
        assert not index.flags() & Qt.ItemFlag.ItemIsUserCheckable
        assert len(str(index.data(Qt.ItemDataRole.ToolTipRole)).splitlines()) == 2
    assert at(panel, "lm_head", SHAPE).data() == "tied"
    assert not panel.model.toggle([at(panel, "lm_head")])


@pytest.mark.parametrize(("preset", "count"), [("attention", 4 * LAYERS), ("mlp", 3 * LAYERS), ("all_linear", 7 * LAYERS), ("none", 0)])
def test_a_preset_ticks_its_modules_and_is_marked(desk: Desk, panel: TargetsPanel, preset: str, count: int) -> None:
    pills = panel.findChild(Pills, "target_presets")
    pills.button(preset).click()
    assert len(desk.workspace.plan.resolution.targets) == count  # type: ignore[union-attr]
    assert pills.current == preset
    assert desk.workspace.draft.undo_stack.count() == 1


def test_space_toggles_every_selected_row_from_any_column(desk: Desk, panel: TargetsPanel, qtbot: QtBot) -> None:
    selection = panel.view.selectionModel()
    chosen = ("model.layers.0.self_attn.k_proj", "model.layers.0.mlp.gate_proj")
    for name in chosen:
        selection.select(at(panel, name), selection.SelectionFlag.Select | selection.SelectionFlag.Rows)
    panel.view.setFocus()
    selection.setCurrentIndex(at(panel, chosen[1], TRAINABLE), selection.SelectionFlag.NoUpdate)
    qtbot.keyClick(panel.view, Qt.Key.Key_Space)
    assert [state(panel, name) for name in chosen] == [Qt.CheckState.Checked] * 2
    assert desk.workspace.draft.undo_stack.count() == 1


def test_shift_click_takes_a_range(panel: TargetsPanel, qtbot: QtBot) -> None:
    def click(name: str, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
        place = panel.view.visualRect(at(panel, name, SHAPE)).center()
        qtbot.mouseClick(panel.view.viewport(), Qt.MouseButton.LeftButton, modifier, place)

    click("model.layers.0.self_attn.q_proj")
    click("model.layers.0.self_attn.o_proj", Qt.KeyboardModifier.ShiftModifier)
    assert [index.data() for index in panel.view.selectionModel().selectedRows()] == ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_f2_edits_r_and_an_empty_text_takes_the_override_away(desk: Desk, panel: TargetsPanel, qtbot: QtBot) -> None:
    name = "model.layers.0.self_attn.q_proj"

    def type_rank(text: str) -> None:
        panel.view.setCurrentIndex(at(panel, name))
        qtbot.keyClick(panel.view, Qt.Key.Key_F2)
        editor = panel.view.findChild(QLineEdit, "edit_target_r")
        assert editor is not None
        editor.setText(text)
        qtbot.keyClick(editor, Qt.Key.Key_Return)
        qtbot.waitUntil(lambda: panel.view.findChild(QLineEdit, "edit_target_r") is None)

    type_rank("64")
    assert desk.workspace.plan.resolution.by_name[name].r == 64  # type: ignore[union-attr]
    assert len(desk.workspace.draft.config.adapter.rank_pattern) == 1
    type_rank("")
    assert desk.workspace.draft.config.adapter.rank_pattern == {}


@pytest.mark.parametrize("text", ["0", "1.5", "many", "65537"])
def test_a_rank_out_of_range_is_refused_in_the_panel(desk: Desk, panel: TargetsPanel, text: str) -> None:
    before = desk.workspace.draft.config
    panel.model.setData(at(panel, "model.layers.0.self_attn.q_proj", RANK), text)
    assert panel.findChild(ErrorLabel, "targets_error").text()
    assert desk.workspace.draft.config is before


def test_alpha_of_a_layer_is_that_of_all_ticked_in_it(desk: Desk, panel: TargetsPanel) -> None:
    panel.model.setData(at(panel, "model.layers.4", ALPHA), "12.5")
    values = {target.name: target.lora_alpha for target in desk.workspace.plan.resolution.targets}  # type: ignore[union-attr]
    assert {name for name, alpha in values.items() if alpha == 12.5} == {
        "model.layers.4.self_attn.q_proj",
        "model.layers.4.self_attn.v_proj",
    }


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Q_PROJ", LAYERS),
        ("layers.2?.self_attn.k_proj", 10),
        ("*.up_proj", LAYERS),
        ("(q|k)_proj$", 2 * LAYERS),
        ("/^lm_/", 1),
        ("zzz", 0),
    ],
)
def test_the_filter_takes_a_name_a_glob_or_a_regex(panel: TargetsPanel, text: str, count: int) -> None:
    type_filter(panel, text)
    nodes = panel.model.nodes
    leaves = [name for name in shown_names(panel) if nodes.end[nodes.node_of[name]] == nodes.node_of[name] + 1]
    assert len(leaves) == count


def test_a_faulty_regex_is_said_inline_and_hides_nothing(panel: TargetsPanel) -> None:
    type_filter(panel, "q_proj")
    before = shown_names(panel)
    type_filter(panel, "(q_proj")
    assert panel.findChild(ErrorLabel, "target_filter_error").isVisible()
    assert shown_names(panel) == before
    type_filter(panel, "")
    assert not panel.findChild(ErrorLabel, "target_filter_error").isVisible()


def test_with_a_filter_a_tick_reaches_only_what_is_shown(desk: Desk, panel: TargetsPanel) -> None:
    type_filter(panel, "k_proj")
    panel.model.toggle([at(panel, "model")])
    assert set(desk.workspace.draft.config.adapter.target_modules) == {"q_proj", "k_proj", "v_proj"}


def test_a_filter_opens_what_leads_to_a_match_and_clearing_it_closes_that_again(panel: TargetsPanel) -> None:
    far = "model.layers.7.mlp.up_proj"
    assert not panel.view.isExpanded(at(panel, "model.layers.7"))
    type_filter(panel, "7.mlp.up_proj")
    assert panel.view.isExpanded(at(panel, far).parent())
    type_filter(panel, "")
    assert not panel.view.isExpanded(at(panel, "model.layers.7"))
    assert panel.view.isExpanded(at(panel, "model.layers.0"))


def test_grouped_by_name_one_tick_reaches_every_layer(desk: Desk, panel: TargetsPanel) -> None:
    panel.set_grouping("name")
    index = next(panel.model.index_of(node) for node, label in enumerate(panel.model.nodes.labels) if label == "o_proj")
    assert panel.model.rowCount(index) == LAYERS
    panel.model.toggle([index])
    assert set(desk.workspace.draft.config.adapter.target_modules) == {"q_proj", "v_proj", "o_proj"}


def test_matches_are_shown_with_all_above_and_below_them(desk: Desk) -> None:
    desk.until(lambda: desk.workspace.model.tree)
    nodes = lay_out(desk.workspace.model.tree, "layer")  # type: ignore[arg-type]
    shown = shown_by(nodes, Filter("/layers\\.3$/").matching(nodes))
    names = {name for name, is_shown in zip(nodes.names, shown.tolist(), strict=True) if is_shown}
    assert {"model", "model.layers", "model.layers.3", "model.layers.3.mlp.up_proj"} <= names
    assert "model.layers.4" not in names


def test_the_compiled_settings_can_be_copied_as_yaml(panel: TargetsPanel, qtbot: QtBot) -> None:
    from PySide6.QtGui import QGuiApplication

    panel.findChild(QToolButton, "copy_targets").click()
    assert QGuiApplication.clipboard().text() == "target_modules: [q_proj, v_proj]"
