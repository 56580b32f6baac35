"""The draft: one config, edited whole or not at all, undone step by step, safe on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pytestqt.qtbot import QtBot

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import config_to_yaml
from lora_studio.core.errors import InputError
from lora_studio.core.paths import studio_paths
from lora_studio.data.check import DataCheck
from lora_studio.data.tasks import CHECK_TASK
from lora_studio.gui.draft.carry_targets import carried_over
from lora_studio.gui.draft.workspace import open_workspace
from lora_studio.gui.shell.yaml_view import YamlDialog
from lora_studio.models.inspect import inspect_model
from tests.export.handmade import tensors_of, write_adapter
from tests.gui.desk import Desk


def test_the_first_start_opens_the_starter_project(desk: Desk) -> None:
    assert desk.workspace.draft.config.name == "support-triage"
    assert Path(desk.workspace.draft.config.data.train[0]).is_absolute()


def test_an_edit_is_one_undo_step_whatever_it_changes(desk: Desk) -> None:
    before = desk.workspace.draft.config
    assert desk.workspace.draft.edit({"adapter.r": 32, "adapter.lora_alpha": 64}, "Both") == {}
    assert desk.workspace.draft.undo_stack.count() == 1
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config == before
    desk.workspace.draft.undo_stack.redo()
    assert (desk.workspace.draft.config.adapter.r, desk.workspace.draft.config.adapter.lora_alpha) == (32, 64)


def test_an_edit_with_one_bad_value_changes_nothing(desk: Desk) -> None:
    before = desk.workspace.draft.config
    errors = desk.workspace.draft.edit({"adapter.r": 0, "adapter.lora_alpha": 64, "adapter.lora_dropout": 1.0}, "Bad")
    assert set(errors) == {"adapter.r", "adapter.lora_dropout"}
    assert "greater than or equal to 1" in errors["adapter.r"]
    assert desk.workspace.draft.config is before
    assert desk.workspace.draft.undo_stack.count() == 0


def test_config_changed_carries_the_config_before_and_after(desk: Desk, qtbot: QtBot) -> None:
    with qtbot.waitSignal(desk.workspace.draft.config_changed) as told:
        desk.workspace.draft.edit({"adapter.r": 4}, "Rank")
    before, after = told.args
    assert before.differences(after) == ("adapter.r",)


def test_edits_of_one_gesture_merge_and_those_of_the_next_do_not(desk: Desk) -> None:
    first = desk.workspace.draft.config.adapter.r
    for rank in (16, 32, 64):
        desk.workspace.draft.edit({"adapter.r": rank}, "Rank", gesture="drag 1")
    desk.workspace.draft.edit({"adapter.r": 4}, "Rank", gesture="drag 2")
    assert desk.workspace.draft.undo_stack.count() == 2
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.adapter.r == 64
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.adapter.r == first


def test_a_gesture_that_ends_where_it_began_leaves_no_step(desk: Desk) -> None:
    first = desk.workspace.draft.config.adapter.r
    for rank in (first * 2, first):
        desk.workspace.draft.edit({"adapter.r": rank}, "Rank", gesture="drag")
    assert desk.workspace.draft.undo_stack.count() == 0


def test_the_draft_is_on_disk_a_moment_after_an_edit(desk: Desk) -> None:
    desk.workspace.draft.edit({"adapter.r": 24}, "Rank")
    assert not desk.workspace.draft.saved
    desk.until(lambda: desk.workspace.draft.saved)
    assert yaml.safe_load((studio_paths().settings / "draft.yaml").read_text())["adapter"]["r"] == 24


def test_the_next_start_finds_the_draft_its_file_and_the_recent_files(desk: Desk, tmp_path: Path) -> None:
    desk.workspace.draft.edit({"adapter.r": 24}, "Rank")
    desk.workspace.draft.save_as(tmp_path / "mine.yaml")
    desk.workspace.draft.edit({"adapter.r": 12}, "Rank")
    desk.workspace.draft.close()
    again = open_workspace(desk.jobs).draft
    assert again.config.adapter.r == 12
    assert again.path == tmp_path / "mine.yaml"
    assert again.recent == [tmp_path / "mine.yaml"]
    again.deleteLater()


def test_a_draft_that_cannot_be_read_is_kept_beside(studio_home: Path, qtbot: QtBot) -> None:
    draft = studio_paths().settings / "draft.yaml"
    draft.parent.mkdir(parents=True)
    draft.write_text("name: [unclosed")
    made = Desk.make(qtbot)
    made.until(lambda: made.notices)
    assert made.workspace.draft.config.name == "support-triage"
    assert draft.with_name("draft.broken.yaml").read_text() == "name: [unclosed"
    assert "draft.broken.yaml" in made.notices[0][1]
    made.close()


def test_a_disk_that_refuses_leaves_the_draft_unsaved_and_says_so(desk: Desk, studio_home: Path) -> None:
    studio_home.mkdir(parents=True, exist_ok=True)
    (studio_home / "settings").write_text("a file where the folder should be")
    desk.workspace.draft.edit({"adapter.r": 24}, "Rank")
    desk.workspace.draft.files.flush()
    assert not desk.workspace.draft.saved
    assert "draft.yaml" in desk.workspace.draft.files.error


def test_opening_a_file_is_undone_together_with_its_path(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(config_to_yaml(RunConfig(name="other")))
    desk.workspace.draft.open(file)
    assert (desk.workspace.draft.config.name, desk.workspace.draft.path) == ("other", file)
    desk.workspace.draft.undo_stack.undo()
    assert (desk.workspace.draft.config.name, desk.workspace.draft.path) == ("support-triage", None)


def test_undoing_an_edit_keeps_the_file_the_draft_was_saved_as(desk: Desk, tmp_path: Path) -> None:
    desk.workspace.draft.edit({"adapter.r": 24}, "Rank")
    desk.workspace.draft.save_as(tmp_path / "mine.yaml")
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.path == tmp_path / "mine.yaml"


def test_a_file_with_an_unknown_key_is_refused_by_line_and_the_draft_stays(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: bad\nadapter:\n  rank: 8\n")
    before = desk.workspace.draft.config
    with pytest.raises(InputError, match=r"bad\.yaml:3: adapter\.rank"):
        desk.workspace.draft.open(file)
    assert desk.workspace.draft.config is before


def test_readiness_names_what_is_missing_and_its_field(desk: Desk) -> None:
    desk.until(lambda: desk.workspace.plan.plan)
    desk.workspace.draft.edit({"data.train": ("/no/such/rows.jsonl",), "adapter.target_modules": ()}, "Break it")
    desk.until(lambda: desk.workspace.data.error)
    desk.until(lambda: desk.workspace.plan.error)
    items = {item.field: item for item in desk.workspace.readiness.items if not item.ok}
    assert "/no/such/rows.jsonl" in items["data.train"].message
    assert "adapter.target_modules" in items
    assert not desk.workspace.readiness.ready


def test_a_field_that_does_not_parse_blocks_a_start(desk: Desk) -> None:
    desk.workspace.draft.set_invalid("training.learning_rate", "This is not a number.")
    assert any(item.field == "training.learning_rate" and not item.ok for item in desk.workspace.readiness.items)
    desk.workspace.draft.set_invalid("training.learning_rate", "")
    assert not any(item.field == "training.learning_rate" for item in desk.workspace.readiness.items)


def test_the_plan_follows_an_edit(desk: Desk) -> None:
    desk.until(lambda: desk.workspace.plan.plan)
    before = desk.workspace.plan.plan
    desk.workspace.draft.edit({"adapter.r": 2 * desk.workspace.draft.config.adapter.r}, "Rank")
    desk.until(lambda: desk.workspace.plan.plan is not before)
    assert desk.workspace.plan.plan is not None
    assert before is not None
    assert desk.workspace.plan.plan.trainable_parameters == 2 * before.trainable_parameters


def test_a_model_that_is_not_there_is_an_error_at_its_field(desk: Desk, tmp_path: Path) -> None:
    desk.workspace.model.choose(str(tmp_path / "nothing"))
    desk.until(lambda: desk.workspace.model.error)
    assert "nothing" in desk.workspace.model.error
    assert desk.workspace.model.tree is None


def test_another_model_keeps_a_preset_in_one_undo_step(desk: Desk, tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("gpt2")
    inspect_model(folder)
    desk.until(lambda: desk.workspace.model.tree)
    desk.workspace.draft.edit({"adapter.target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")}, "Attention")
    before = desk.workspace.draft.config
    desk.workspace.model.choose(str(folder))
    desk.until(lambda: desk.workspace.model.facts is not None and desk.workspace.model.facts.model_type == "gpt2")
    assert all("attn" in target.name for target in desk.workspace.plan.resolution.targets)  # type: ignore[union-attr]
    assert not desk.workspace.plan.resolution.errors  # type: ignore[union-attr]
    assert any("q_proj" in text for _level, text in desk.notices)
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config == before


def test_on_another_model_what_matches_stays_and_the_rest_is_listed(tiny_model: Callable[[str], Path]) -> None:
    adapter = (
        RunConfig()
        .replace(
            {
                "adapter.target_modules": ("q_proj", "c_attn", "down_proj"),
                "adapter.rank_pattern": {"layers.1.mlp.down_proj": 4, "wte": 2},
                "adapter.layers_to_transform": (0, 1, 40),
            }
        )
        .adapter
    )
    result = carried_over(adapter, inspect_model(tiny_model("llama")))
    assert result.lost == ("target_modules: c_attn", "rank_pattern: wte", "layers_to_transform: 40")
    assert result.changes["adapter.target_modules"] == ("q_proj", "down_proj")
    assert result.changes["adapter.rank_pattern"] == {"layers.1.mlp.down_proj": 4}
    assert result.changes["adapter.layers_to_transform"] == (0, 1)


def test_large_data_is_checked_in_a_job_with_the_same_result(desk: Desk, chat_rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.gui.draft.data_state._READ_HERE_BYTES", 10)
    specs: list[str] = []
    desk.jobs.job_changed.connect(lambda job: specs.append(job.spec.target))
    desk.workspace.draft.edit({"data.train": (str(chat_rows),)}, "Data")
    desk.until(lambda: desk.workspace.data.check is not None and desk.workspace.data.check.rows == 24)
    assert CHECK_TASK in specs
    assert desk.workspace.data.check is not None
    assert DataCheck.from_json(desk.workspace.data.check.to_json()) == desk.workspace.data.check


def test_yaml_is_edited_as_one_step(desk: Desk, qtbot: QtBot) -> None:
    dialog = YamlDialog(desk.workspace)
    qtbot.addWidget(dialog)
    dialog.editor.setPlainText(desk.workspace.draft.yaml.replace("name: support-triage", "name: renamed"))
    dialog.apply()
    assert desk.workspace.draft.config.name == "renamed"
    assert desk.workspace.draft.undo_stack.count() == 1


@pytest.mark.parametrize(("text", "line"), [("name: a\nadapter:\n  r: 0\n", 3), ("name: a\nadapter: [\n", 3), ("name: a\nfoo: 1\n", 2)])
def test_faulty_yaml_is_marked_at_its_line_and_not_taken(desk: Desk, qtbot: QtBot, text: str, line: int) -> None:
    before = desk.workspace.draft.config
    dialog = YamlDialog(desk.workspace)
    qtbot.addWidget(dialog)
    dialog.editor.setPlainText(text)
    dialog.apply()
    marked = [selection.cursor.blockNumber() + 1 for selection in dialog.editor.extraSelections()]
    assert marked == [line]
    assert desk.workspace.draft.config is before


def test_a_quantized_base_without_bitsandbytes_is_not_ready_and_the_way_to_it_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.models.quantization.find_spec", lambda _name: None)
    desk.workspace.draft.edit({"model.quantization": "nf4"}, "Quantize")
    desk.until(lambda: any(item.field == "model.quantization" for item in desk.workspace.readiness.items))
    told = next(item.message for item in desk.workspace.readiness.items if item.field == "model.quantization")
    assert "pip install 'bitsandbytes" in told


def test_an_adapter_to_begin_from_that_does_not_fit_keeps_the_draft_from_starting(
    desk: Desk, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    inspect_model(tiny_model("llama"))
    source = write_adapter(tmp_path / "large", tensors_of(16), r=16)
    changes = {"model.name_or_path": str(tiny_model("llama")), "adapter.warm_start": str(source), "adapter.r": 8}
    assert desk.workspace.draft.edit(changes, "Begin") == {}
    desk.until(lambda: any(item.field == "adapter.r" for item in desk.workspace.readiness.items))
    told = next(item for item in desk.workspace.readiness.items if item.field == "adapter.r")
    assert not told.ok
    assert str(source) in told.message
    assert told.message.endswith("Set r to 16 or more.")
    desk.workspace.draft.edit({"adapter.r": 16}, "Rank")
    desk.until(lambda: not any(item.field == "adapter.r" for item in desk.workspace.readiness.items))
