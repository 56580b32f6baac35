"""Base model: which one, how it is held, what it is, and the job that makes it ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QHBoxLayout, QMenu, QPushButton, QToolButton, QWidget

from lora_studio.gui.forms import FieldSpec
from lora_studio.gui.panels.panel import Panel
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_bytes, format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets import ComboBox, ElidedLabel, ErrorLabel, LineEdit, ProgressLine, label
from lora_studio.models.sources import local_models

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter
    from lora_studio.models.facts import ModelFacts
    from lora_studio.models.sources import ModelSource

_NAME = "model.name_or_path"


class ModelChoice(ComboBox):
    """An editable list of the models on this machine, looked up when it opens; its text may be any folder, file or Hub id."""

    def __init__(self) -> None:
        super().__init__("model_choice")
        self.setEditable(True)
        self.setInsertPolicy(ComboBox.InsertPolicy.NoInsert)
        self.setLineEdit(LineEdit(name="model_name"))
        self.setCompleter(None)  # type: ignore[arg-type]  # a completed id would download another model than was typed

    def showPopup(self) -> None:
        """List what is on this machine now."""
        text = self.currentText()
        self.clear()
        for source in local_models():
            self.addItem(source.name)
        self.setEditText(text)
        super().showPopup()


class ModelPanel(Panel):
    """Chooses the base model and shows its facts, or what is wrong with it."""

    def __init__(self, workspace: Workspace, jobs: JobCenter, asker: FileDialogs | None = None) -> None:
        super().__init__(tr("Base model"), "model_panel", workspace, jobs)
        self._asker = asker or FileDialogs()
        self._build()
        self._connect()
        self._on_model()

    def focus_field(self, path: str) -> bool:
        """Put the cursor into a field of the model."""
        if path == _NAME:
            self._choice.setFocus()
            return True
        return super().focus_field(path)

    def choose(self, name: str) -> None:
        """Make another base model the draft's; ticks that match it stay."""
        name = name.strip()
        if not name or name == self._workspace.draft.config.model.name_or_path:
            self._choice.setEditText(self._workspace.draft.config.model.name_or_path)
            return
        self._error.set_error("; ".join(self._workspace.model.choose(name).values()))

    def _build(self) -> None:
        self._choice = ModelChoice()
        spec = FieldSpec.of(_NAME)
        self._choice.setToolTip(spec.tooltip)
        self._choice.setAccessibleName(spec.title)
        self._browse = QToolButton()
        self._browse.setObjectName("browse_model")
        self._browse.setAccessibleName(tr("Browse for a model"))
        self._browse.setToolTip(tr("Choose a folder or a GGUF file"))
        self._browse.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self._browse)
        menu.addAction(tr("Folder…"), self._browse_folder)
        menu.addAction(tr("GGUF file…"), self._browse_file)
        self._browse.setMenu(menu)
        self._facts = label("", "note", "model_facts", wrap=True)
        self._error = ErrorLabel("model_error")
        self.body.addLayout(_line(self._choice, self._browse))
        self.body.addLayout(self._build_settings())
        self.body.addWidget(self._facts)
        self.body.addWidget(self._build_progress())
        self.body.addWidget(self._error)
        self._recolor()

    def _build_settings(self) -> QHBoxLayout:
        dtype, quantization = (self.form.row(path) for path in ("model.dtype", "model.quantization"))
        line = QHBoxLayout()
        line.setSpacing(8)
        for row in (dtype, quantization):
            row.title.hide()
            row.set_letters(None)
            line.addWidget(row, 1)
        assert isinstance(dtype.editor, ComboBox)
        assert isinstance(quantization.editor, ComboBox)
        dtype.editor.setItemText(0, tr("weights as stored"))
        quantization.editor.setItemText(0, tr("no quantization"))
        return line

    def _build_progress(self) -> QWidget:
        self._progress = QWidget()
        self._progress.setObjectName("model_progress")
        self._progress_text = ElidedLabel("", "note", "model_progress_text")
        self._progress_line = ProgressLine("model_progress_line")
        self._act = QPushButton()
        self._act.setObjectName("model_act")
        box = QHBoxLayout(self._progress)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._progress_text, 2)
        box.addWidget(self._progress_line, 1)
        box.addWidget(self._act)
        return self._progress

    def _connect(self) -> None:
        model = self._workspace.model
        edit = self._choice.lineEdit()
        assert edit is not None
        edit.editingFinished.connect(lambda: self.choose(edit.text()))
        self._choice.activated.connect(lambda index: self.choose(self._choice.itemText(index)))
        self._act.clicked.connect(self._on_act)
        model.changed.connect(self._on_model)
        model.progressed.connect(self._on_progress)
        self._workspace.plan.changed.connect(self._show_error)
        self.form.shown.connect(self._show_name)
        theme().changed.connect(self._recolor)

    def _browse_folder(self) -> None:
        self._take(self._asker.open_folder(self, tr("Choose a model's folder"), Path.home()))

    def _browse_file(self) -> None:
        self._take(self._asker.open_file(self, tr("Choose a GGUF file"), Path.home(), (tr("GGUF models (*.gguf)"),)))

    def _take(self, path: Path | None) -> None:
        if path is not None:
            self.choose(str(path))

    def _on_act(self) -> None:
        model = self._workspace.model
        if model.job is not None:
            model.cancel()
            self._act.setEnabled(False)
            self._progress_text.setText(tr("Stopping…"))
        else:
            model.prepare()

    def _on_model(self) -> None:
        model = self._workspace.model
        self._show_name()
        self.set_note(source_text(model.source, model.facts))
        self._facts.setText(facts_text(model.facts))
        self._show_error()
        needed = {"convert": tr("Convert"), "download": tr("Download")}.get(model.needs, "")
        self._progress.setVisible(model.job is not None or bool(needed))
        self._act.setEnabled(True)
        self._act.setText(tr("Cancel") if model.job else needed)
        self._progress_line.setVisible(model.job is not None)
        self._on_progress()

    def _on_progress(self) -> None:
        model = self._workspace.model
        if model.job is None:
            why = {"convert": tr("Has to be converted once"), "download": tr("Not on this machine")}
            self._progress_text.setText(why.get(model.needs, ""))
            return
        phase = model.phase
        fraction = phase.done / phase.total if phase and phase.done is not None and phase.total else None
        self._progress_line.set_fraction(fraction)
        text = phase.message or phase.name.capitalize() if phase else tr("engine loading…")
        if phase and phase.unit == "bytes" and phase.done is not None and phase.total:
            text = tr("{told} · {done} of {total}", told=text, done=format_bytes(phase.done), total=format_bytes(phase.total))
        if self._act.isEnabled():
            self._progress_text.setText(text)

    def _show_error(self) -> None:
        """Say what is wrong with the model, or why this one cannot be trained on, with the way out."""
        model, refused = self._workspace.model, self._workspace.plan.base_refused
        told = f"{model.error} {model.hint}" if model.error or refused is None else f"{refused.message} {refused.hint}"
        self._error.set_error(told.strip())

    def _show_name(self) -> None:
        edit = self._choice.lineEdit()
        name = self.form.config.model.name_or_path
        if edit is not None and edit.text() != name and not (edit.hasFocus() and edit.isModified()):
            self._choice.setEditText(name)
            edit.setCursorPosition(0)

    def _recolor(self) -> None:
        self._browse.setIcon(icon("folder", colors().muted))


def source_text(source: ModelSource | None, facts: ModelFacts | None) -> str:
    """Say where a model is and how much room it takes: in cache · 269 MB."""
    if source is None:
        return ""
    where = {
        "starter": tr("starter"),
        "folder": tr("folder"),
        "gguf": tr("GGUF file"),
        "hub_cache": tr("in cache"),
        "hub": tr("on the Hub"),
    }[source.kind]
    size = facts.bytes_on_disk if facts else 0
    return f"{where} · {format_bytes(size)}" if size else where


def facts_text(facts: ModelFacts | None) -> str:
    """Write a model's facts on one line."""
    if facts is None:
        return ""
    parts = [
        facts.model_type,
        tr("{count} parameters", count=format_count(facts.parameters)) if facts.parameters else "",
        tr("{count} layers", count=facts.layers) if facts.layers else "",
        tr("tied embeddings") if facts.tied_embeddings else "",
        facts.stored.said if facts.stored else facts.dtype,
        facts.licence,
    ]
    return " · ".join(part for part in parts if part)


def _line(*widgets: QWidget) -> QHBoxLayout:
    line = QHBoxLayout()
    line.setSpacing(6)
    for stretch, widget in zip((1, 0), widgets, strict=True):
        line.addWidget(widget, stretch)
    return line
