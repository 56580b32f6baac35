"""The draft as YAML: read, edit, take over; what is wrong is marked at its line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtGui import QColor, QGuiApplication, QTextCursor, QTextFormat
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QPlainTextEdit, QPushButton, QTextEdit, QVBoxLayout, QWidget

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import parse_config, resolve_paths
from lora_studio.core.errors import InputError
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors
from lora_studio.gui.widgets import ErrorLabel

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

_NAME = "draft"


class YamlDialog(QDialog):
    """Edits the draft's YAML; *Apply* makes it the draft, as one undo step.

    Also opens a config file that could not be read, with the line at fault marked: pass its text and path.
    """

    def __init__(self, workspace: Workspace, parent: QWidget | None = None, text: str | None = None, path: Path | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("yaml_dialog")
        self.setWindowTitle(str(path) if path else tr("Draft as YAML"))
        self.resize(640, 620)
        self._workspace = workspace
        self._path = path
        self._build()
        self.editor.setPlainText(workspace.draft.yaml if text is None else text)
        self.check()

    def check(self) -> RunConfig | None:
        """Read the text; mark what is wrong. Gives the config, or None where it is none."""
        try:
            config = parse_config(self.editor.toPlainText(), name=_NAME)
        except InputError as error:
            self._mark(error)
            return None
        self.editor.setExtraSelections([])
        self._error.set_error("")
        self._apply.setEnabled(True)
        return config

    def apply(self) -> None:
        """Make the text the draft and close; a faulty text stays open."""
        config = self.check()
        if config is None:
            return
        folder = self._path.parent if self._path else Path.cwd()
        path = self._path or self._workspace.draft.path
        self._workspace.draft.take_over(resolve_paths(config, folder), tr("Edit YAML"), path)
        self.accept()

    def _build(self) -> None:
        self.editor = QPlainTextEdit()
        self.editor.setObjectName("yaml_editor")
        self.editor.setAccessibleName(tr("Draft as YAML"))
        self.editor.setProperty("role", "mono")
        self.editor.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.editor.setTabChangesFocus(True)
        self._error = ErrorLabel("yaml_error")
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self._apply = buttons.addButton(tr("Apply"), QDialogButtonBox.ButtonRole.AcceptRole)
        self._apply.setObjectName("yaml_apply")
        copy = QPushButton(tr("Copy"))
        copy.setObjectName("yaml_copy")
        buttons.addButton(copy, QDialogButtonBox.ButtonRole.ActionRole)
        layout = QVBoxLayout(self)
        for widget in (self.editor, self._error, buttons):
            layout.addWidget(widget)
        self.editor.textChanged.connect(self.check)
        self._apply.clicked.connect(self.apply)
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self.editor.toPlainText()))
        buttons.rejected.connect(self.reject)

    def _mark(self, error: InputError) -> None:
        """Say what is wrong, and shade the lines it names."""
        self._apply.setEnabled(False)
        text = str(error)
        for line in error.lines:
            text = text.replace(f"{_NAME}:{line}:", tr("line {line}", line=line) + ":")
        self._error.set_error(text)
        self.editor.setExtraSelections([self._shade(line) for line in error.lines])

    def _shade(self, line: int) -> QTextEdit.ExtraSelection:
        shade = QColor(colors().bad)
        shade.setAlphaF(0.22)
        selection = QTextEdit.ExtraSelection()
        selection.cursor = QTextCursor(self.editor.document().findBlockByNumber(line - 1))  # pyright: ignore[reportAttributeAccessIssue]
        selection.format.setBackground(shade)  # pyright: ignore[reportAttributeAccessIssue]
        selection.format.setProperty(QTextFormat.Property.FullWidthSelection, True)  # pyright: ignore[reportAttributeAccessIssue]
        return selection
