from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QCheckBox, QLabel, QPushButton, QRadioButton

from lora_studio.core.events import RunFinished
from lora_studio.core.runs import RunFolder
from lora_studio.export.card.loading import loading_lines
from lora_studio.export.gguf.llama_cpp import find_converter
from lora_studio.gui.export import dialog as export_dialog
from lora_studio.gui.export.dialog import ExportDialog
from lora_studio.gui.export.subject import ExportSubject
from lora_studio.gui.export.text import ShownCertificate, certificate_in_words, merged_bytes
from lora_studio.gui.widgets import Banner, ComboBox, ErrorLabel, LineEdit
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.inspect import inspect_model
from tests.export.adapters import make_adapter
from tests.gui.desk import Desk


@pytest.fixture
def trained(desk: Desk, tiny_model: Callable[[str], Path]) -> RunFolder:
    """A run with a final adapter and two checkpoints."""
    folder = desk.past_run([RunFinished()], **{"model.name_or_path": str(tiny_model("llama")), "adapter.r": 4})
    for path in (folder.adapter_path, folder.path / "checkpoints/step-000005", folder.path / "checkpoints/step-000010"):
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text("{}", encoding="utf-8")
        (path / "adapter_model.safetensors").write_bytes(b"x" * 2000)
    return folder


@pytest.fixture
def dialog_of(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExportDialog]:
    monkeypatch.setattr(export_dialog, "EXPORT_TASK", "tests.gui.tasks:export")

    def make(kind: str, folder: RunFolder) -> ExportDialog:
        dialog = ExportDialog(kind, ExportSubject.of_run(folder), desk.jobs, desk.answers)  # type: ignore[arg-type]
        desk.qtbot.addWidget(dialog)
        dialog.show()
        return dialog

    return make


def text_of(dialog: ExportDialog, name: str) -> str:
    return dialog.findChild(QLabel, name).text()


def press(desk: Desk, dialog: ExportDialog, name: str) -> None:
    desk.qtbot.mouseClick(dialog.findChild(QPushButton, name), Qt.MouseButton.LeftButton)


def test_the_dialog_names_run_weights_size_and_destination(trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    dialog = dialog_of("adapter", trained)
    assert trained.name in dialog.windowTitle()
    assert text_of(dialog, "export_run") == f"{trained.name} · r 4 · α 16"
    assert text_of(dialog, "export_size") == "2.0 kB"
    combo = dialog.findChild(ComboBox, "export_source")
    assert [combo.itemText(i) for i in range(3)] == ["final adapter", "checkpoint step-000010", "checkpoint step-000005"]
    assert dialog.form.destination == trained.path / "exports" / "adapter"
    combo.setCurrentIndex(1)
    assert dialog.source.path == trained.path / "checkpoints" / "step-000010"
    assert dialog.form.destination.name == "adapter-step-000010"


def test_the_size_of_a_merge_follows_the_dtype(trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    dialog = dialog_of("merged", trained)
    dtype = dialog.findChild(ComboBox, "export_dtype")
    sizes = []
    for place in range(dtype.count()):
        dtype.setCurrentIndex(place)
        sizes.append(text_of(dialog, "export_size"))
    assert sizes[0] == sizes[1]
    assert sizes[2] == sizes[3] != sizes[1]
    assert dialog.form.destination.name == "merged-float16"


def test_an_earlier_export_is_replaced_only_when_asked(
    desk: Desk,
    trained: RunFolder,
    dialog_of: Callable[..., ExportDialog],
) -> None:
    dialog = dialog_of("merged", trained)
    dialog.form.destination.mkdir(parents=True)
    certificate = {"verdict": "exact", "rows_from": "general text", "tensors_checked": 0}
    (dialog.form.destination / "certificate.json").write_text(json.dumps(certificate), encoding="utf-8")
    press(desk, dialog, "begin_button")
    assert dialog.job is None
    assert "exists already" in dialog.findChild(ErrorLabel, "export_problem").text()
    replace = dialog.findChild(QCheckBox, "replace_existing")
    assert not replace.isHidden()
    replace.setChecked(True)
    press(desk, dialog, "begin_button")
    desk.until(lambda: dialog.job is None and dialog.findChild(Banner, "export_verdict").isVisible())


def test_a_folder_that_is_no_export_cannot_be_replaced(desk: Desk, trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    dialog = dialog_of("merged", trained)
    dialog.form.destination.mkdir(parents=True)
    (dialog.form.destination / "mine.txt").write_text("mine", encoding="utf-8")
    press(desk, dialog, "begin_button")
    assert dialog.job is None
    assert "no earlier export" in dialog.findChild(ErrorLabel, "export_problem").text()
    assert dialog.findChild(QCheckBox, "replace_existing").isHidden()


@pytest.mark.parametrize("place", ["", "  ", ".", "some/folder"])
def test_no_destination_or_a_relative_one_is_said_at_its_field(
    place: str,
    desk: Desk,
    trained: RunFolder,
    dialog_of: Callable[..., ExportDialog],
) -> None:
    dialog = dialog_of("merged", trained)
    dialog.findChild(LineEdit, "export_place").setText(place)
    press(desk, dialog, "begin_button")
    assert dialog.job is None
    assert "whole path" in dialog.findChild(ErrorLabel, "export_problem").text()


def test_the_certificate_is_told_in_words_with_folder_and_loading_lines(
    desk: Desk,
    trained: RunFolder,
    dialog_of: Callable[..., ExportDialog],
) -> None:
    dialog = dialog_of("merged", trained)
    press(desk, dialog, "begin_button")
    verdict = dialog.findChild(Banner, "export_verdict")
    desk.until(verdict.isVisible)
    assert verdict.level == "good"
    assert verdict.text == "Passed: largest logit difference 2.5e-06 over 4 held-out rows; the likeliest token agrees on 100.0%."
    press(desk, dialog, "open_folder_button")
    assert desk.answers.shown == [dialog.form.destination]
    press(desk, dialog, "copy_lines_button")
    assert f"from_pretrained({str(dialog.form.destination)!r})" in QGuiApplication.clipboard().text()


def test_a_refused_merge_says_why_and_leads_back(desk: Desk, trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    dialog = dialog_of("merged", trained)
    dialog.findChild(ComboBox, "export_dtype").setCurrentIndex(2)
    press(desk, dialog, "begin_button")
    verdict = dialog.findChild(Banner, "export_verdict")
    desk.until(verdict.isVisible)
    assert verdict.level == "error"
    assert verdict.text == "The merged export was refused: logits differ by 3. Merge in float32."
    press(desk, dialog, "back_button")
    assert dialog.findChild(QPushButton, "begin_button").isVisible()


def test_cancel_ends_the_export_and_shows_the_form_again(desk: Desk, trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    desk.answers.folder = trained.path / "slow"
    dialog = dialog_of("merged", trained)
    press(desk, dialog, "browse_button")
    assert dialog.form.destination.parent == trained.path / "slow"
    press(desk, dialog, "begin_button")
    desk.until(lambda: text_of(dialog, "export_phase") == "Merging")
    press(desk, dialog, "cancel_export_button")
    desk.until(lambda: dialog.job is None)
    assert dialog.findChild(QPushButton, "begin_button").isVisible()


def test_an_export_behind_a_run_says_what_it_waits_for(desk: Desk, trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    desk.jobs.start(JobSpec("tests.gui.tasks:wait", title="night-run", device=True))
    dialog = dialog_of("adapter", trained)
    press(desk, dialog, "begin_button")
    assert text_of(dialog, "export_phase") == "waits for night-run"


def test_an_export_keeps_the_runs_settings_when_the_draft_changes(
    desk: Desk,
    trained: RunFolder,
    dialog_of: Callable[..., ExportDialog],
) -> None:
    dialog = dialog_of("adapter", trained)
    desk.workspace.draft.edit({"adapter.r": 64, "model.name_or_path": "someone/else"}, "other")
    assert text_of(dialog, "export_run").endswith("r 4 · α 16")
    assert repr(trained.config.model.name_or_path) in loading_lines("adapter", str(dialog.form.destination), dialog.subject.base)


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (
            ShownCertificate(8, 3e-5, 1.0, 0.0, passed=True),
            "Passed: largest logit difference 3e-05 over 8 held-out rows; the likeliest token agrees on 100.0%.",
        ),
        (
            ShownCertificate(8, 0.5, 0.98, 0.12, passed=True),
            "the likeliest token agrees on 98.0%; rounding to bfloat16 cost 12.0% of the adapter's effect.",
        ),
        (
            ShownCertificate(8, 3e-5, None, None, passed=True, held_in="4 bits (NF4)", compared_with="tiny, unpacked to float32"),
            "; the adapter was trained on a base in 4 bits (NF4); compared on tiny, unpacked to float32.",
        ),
        (ShownCertificate(0, None, None, None, passed=False), "Did not pass."),
    ],
)
def test_a_certificate_reads_as_a_sentence(certificate: ShownCertificate, words: str) -> None:
    assert certificate_in_words(certificate, "bfloat16").endswith(words)


def test_merged_bytes_are_counted_in_the_dtype_written() -> None:
    assert merged_bytes(1000, "keep", "bfloat16") == merged_bytes(1000, "float16", "float32") == 2000
    assert merged_bytes(1000, "float32", "bfloat16") == 4000
    assert merged_bytes(1000, "keep", "float64") == merged_bytes(1000, "keep", "float8_e4m3fn") == 4000


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_loading_lines_are_python_that_names_a_pinned_base(kind: str, tmp_path: Path) -> None:
    lines = loading_lines(kind, str(tmp_path / "it's here"), "org/base", revision="abc")
    compile(lines, "lines", "exec")
    assert ("revision='abc'" in lines) == (kind == "adapter")


def test_only_what_can_work_is_offered_and_the_rest_says_why(
    desk: Desk,
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    dialog_of: Callable[..., ExportDialog],
) -> None:
    base = tiny_model("qwen3")
    inspect_model(base)
    folder = desk.past_run([RunFinished()], **{"model.name_or_path": str(base), "adapter.r": 4})
    make_adapter(base, folder.adapter_path, target_modules=["q_proj"], use_dora=True)
    dialog = dialog_of("gguf-adapter", folder)
    assert not dialog.findChild(QRadioButton, "form_gguf-adapter").isEnabled()
    assert text_of(dialog, "form_gguf-adapter_note") == "Not here: llama.cpp has no DoRA in adapters."
    assert dialog.form.form == "adapter"
    for name in ("adapter", "merged", "gguf"):
        assert dialog.findChild(QRadioButton, f"form_{name}").isEnabled()


def test_an_adapter_on_a_tied_head_is_offered_as_an_adapter_alone(
    desk: Desk,
    tiny_model: Callable[[str], Path],
    dialog_of: Callable[..., ExportDialog],
) -> None:
    base = tiny_model("qwen3")
    inspect_model(base)
    folder = desk.past_run([RunFinished()], **{"model.name_or_path": str(base)})
    make_adapter(base, folder.adapter_path, target_modules=["lm_head"])
    dialog = dialog_of("merged", folder)
    assert dialog.form.form == "adapter"
    for name in ("merged", "gguf", "gguf-adapter"):
        assert not dialog.findChild(QRadioButton, f"form_{name}").isEnabled()
        assert "lm_head is tied to" in text_of(dialog, f"form_{name}_note")


def test_each_form_shows_its_own_fields_with_size_and_time(trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    dialog = dialog_of("merged", trained)
    dtype, outtype = (dialog.findChild(ComboBox, name) for name in ("export_dtype", "export_outtype"))
    assert (dtype.isVisible(), outtype.isVisible()) == (True, False)
    dialog.findChild(QRadioButton, "form_gguf").setChecked(True)
    assert (dtype.isVisible(), outtype.isVisible()) == (False, True)
    assert dialog.form.destination.name == "gguf-f16"
    sizes = []
    for kind in ("f32", "q8_0"):
        outtype.setCurrentIndex(outtype.findData(kind))
        sizes.append(text_of(dialog, "export_size"))
    assert sizes[0] != sizes[1]
    assert text_of(dialog, "export_time").startswith("takes about ")
    assert dialog.form.arguments["outtype"] == "q8_0"
    dialog.findChild(QRadioButton, "form_adapter").setChecked(True)
    assert (dtype.isVisible(), outtype.isVisible()) == (False, False)


def test_a_missing_converter_is_fetched_first(
    desk: Desk,
    tiny_model: Callable[[str], Path],
    dialog_of: Callable[..., ExportDialog],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_model("llama")
    folder = desk.past_run([RunFinished()], **{"model.name_or_path": str(base)})
    make_adapter(base, folder.adapter_path, target_modules=["q_proj"])
    monkeypatch.setattr(export_dialog, "FETCH_TASK", "tests.gui.tasks:fetch_converter")
    dialog = dialog_of("gguf", folder)
    assert dialog.findChild(QPushButton, "begin_button").text() == "Fetch llama.cpp's converter (3 MB) and export"
    press(desk, dialog, "begin_button")
    desk.until(lambda: dialog.job is None and dialog.findChild(Banner, "export_verdict").isVisible())
    assert dialog.findChild(Banner, "export_verdict").level == "good"
    assert find_converter() is not None


def test_where_rounding_cost_too_much_float32_is_a_button_away(
    desk: Desk,
    trained: RunFolder,
    dialog_of: Callable[..., ExportDialog],
) -> None:
    dialog = dialog_of("merged", trained)
    dtype = dialog.findChild(ComboBox, "export_dtype")
    dtype.setCurrentIndex(dtype.findData("float16"))
    press(desk, dialog, "begin_button")
    button = dialog.findChild(QPushButton, "float32_button")
    desk.until(button.isVisible)
    press(desk, dialog, "float32_button")
    assert dialog.findChild(QPushButton, "begin_button").isVisible()
    assert dialog.form.arguments["dtype"] == "float32"


def test_an_adapters_result_says_where_it_can_be_served(desk: Desk, trained: RunFolder, dialog_of: Callable[..., ExportDialog]) -> None:
    dialog = dialog_of("adapter", trained)
    press(desk, dialog, "begin_button")
    desk.until(dialog.findChild(Banner, "export_verdict").isVisible)
    assert [text_of(dialog, f"program_0{part}") for part in ("", "_answer", "_reason")] == ["PEFT", "yes", "this folder."]
    assert text_of(dialog, "program_1_reason") == "a rank of 9. train with r 8."
    assert text_of(dialog, "program_2_answer") == "not measured"
