"""One field on a form: title, a hint, its editor, and what is wrong with it."""

from __future__ import annotations

from typing import cast

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from lora_studio.core.variable_lines import read_lines, written_lines
from lora_studio.gui.forms.fields import FieldSpec
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import ComboBox, ElidedLabel, ErrorLabel, LineEdit, LinesEdit, NumberEdit, identifier, label

_NUMBER_LETTERS = 6
_CHOICE_LETTERS = 9
_PADDING = {"choice": 44}  # of an editor in pixels, as the style sheet has it
_USUAL_PADDING = 22
_NO_LIMIT = 16777215  # Qt's QWIDGETSIZE_MAX
_LABELS: dict[object, str] = {
    True: "default",
    "sft": "SFT",
    "group_by_length": "by length",
    "nf4": "4-bit (NF4)",
    "int8": "8-bit",
}


class FieldRow(QWidget):
    """Shows one value and says what a person wants it to be; the draft decides.

    Signals:
        edited: A person gave another value that parses; carries it.
        refused: What is typed does not parse; carries why. Empty once it does.
    """

    edited = Signal(object)
    refused = Signal(str)

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spec = spec
        name = identifier(spec.path)
        self.setObjectName(f"row_{name}")
        self.title = label(spec.title, name=f"title_{name}")
        self.hint = ElidedLabel("", "note", f"hint_{name}")
        self.was = ElidedLabel("", "note", f"was_{name}")
        self.error = ErrorLabel(f"error_{name}")
        self._letters: int | None = _CHOICE_LETTERS if spec.kind in ("choice", "names") else _NUMBER_LETTERS
        self.editor = self._build_editor()
        self._lay_out()
        self._fit()
        self.setToolTip(spec.tooltip)
        self.title.setToolTip(spec.tooltip)
        self.editor.setObjectName(f"edit_{name}")
        self.editor.setAccessibleName(spec.title)
        self.editor.setAccessibleDescription(spec.description)

    def show_value(self, value: object) -> None:
        """Show a value of the config; what is wrong with an earlier one is forgotten."""
        self.set_error("")
        match self.editor:
            case NumberEdit():
                assert value is None or isinstance(value, int | float)
                self.editor.set_value(value)
            case ComboBox():
                self.editor.setCurrentIndex(self.editor.findData(_key(value)))
            case QCheckBox():
                self.editor.setChecked(bool(value))
            case LineEdit():
                self.editor.setText(_as_text(value))
            case LinesEdit():
                self.editor.show_text(written_lines(cast("dict[str, object]", value)))
            case _:
                raise TypeError(type(self.editor).__name__)

    def set_error(self, message: str) -> None:
        """Say what is wrong beside the editor; empty for nothing."""
        self.error.set_error(message)
        if isinstance(self.editor, NumberEdit | LineEdit | LinesEdit):
            self.editor.set_error(message)

    def set_hint(self, text: str) -> None:
        """Show a short note between title and editor."""
        self.hint.setText(text)
        self.hint.setVisible(bool(text))

    def set_was(self, text: str) -> None:
        """Show what the run that is shown has, where it is another value."""
        self.was.setText(text)
        self.was.setVisible(bool(text))

    def set_locked(self, locked: bool) -> None:
        """Let a person read the value but not change it."""
        self.editor.setEnabled(not locked)

    def set_letters(self, letters: int | None) -> None:
        """Leave the editor room for so many letters of whatever size; None lets it take all there is."""
        self._letters = letters
        self._line.setStretchFactor(self.editor, 0 if letters else 1)
        self._line.setStretch(1, 1 if letters else 0)
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        """Keep the editor as wide as its letters need when the text size changes."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit()

    def _fit(self) -> None:
        if not hasattr(self, "editor") or isinstance(self.editor, QCheckBox):
            return
        if self._letters is None or isinstance(self.editor, LinesEdit):
            self.editor.setMinimumWidth(0)
            self.editor.setMaximumWidth(_NO_LIMIT)
        else:
            padding = _PADDING.get(self.spec.kind, _USUAL_PADDING)
            self.editor.setFixedWidth(self._letters * self.fontMetrics().horizontalAdvance("0") + padding)

    def _lay_out(self) -> None:
        line = self._line = QHBoxLayout()
        line.setSpacing(5)
        self.title.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Preferred)
        line.addWidget(self.title)
        line.addStretch(1)
        line.addWidget(self.was)
        line.addWidget(self.hint)
        below = isinstance(self.editor, LinesEdit)
        if not below:
            line.addWidget(self.editor)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(3)
        outer.addLayout(line)
        if below:
            outer.addWidget(self.editor)
        outer.addWidget(self.error)
        for note in (self.hint, self.was):
            note.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)  # shortened before the title is
            note.hide()

    def _build_editor(self) -> QWidget:
        match self.spec.kind:
            case "int" | "float":
                return self._number_editor()
            case "choice":
                return self._choice_editor()
            case "bool":
                box = QCheckBox()
                box.clicked.connect(lambda: self.edited.emit(box.isChecked()))  # `emit` itself would be given nothing
                return box
            case "text" | "names":
                return self._text_editor()
            case "mapping":
                return self._lines_editor()

    def _number_editor(self) -> NumberEdit:
        spec = self.spec
        editor = NumberEdit(whole=spec.kind == "int", minimum=spec.minimum, maximum=spec.maximum)
        editor.value_edited.connect(self._on_number)
        editor.editingFinished.connect(lambda: self.refused.emit(editor.error))
        return editor

    def _on_number(self, value: int | float) -> None:
        whole = self.spec.whole_too and isinstance(value, float) and value.is_integer()
        self.edited.emit(int(value) if whole else value)

    def _choice_editor(self) -> ComboBox:
        editor = ComboBox()
        for choice in self.spec.choices:
            editor.addItem(tr(_LABELS.get(choice, str(choice))), _key(choice))
        editor.activated.connect(lambda index: self.edited.emit(self.spec.choices[index]))
        return editor

    def _text_editor(self) -> LineEdit:
        editor = LineEdit()
        editor.setAlignment(Qt.AlignmentFlag.AlignRight)
        editor.editingFinished.connect(self._on_text)
        return editor

    def _lines_editor(self) -> LinesEdit:
        editor = LinesEdit()
        editor.setPlaceholderText(tr("name=value, one a line"))
        editor.editing_finished.connect(self._on_lines)
        return editor

    def _on_lines(self) -> None:
        assert isinstance(self.editor, LinesEdit)
        try:
            values = read_lines(self.editor.toPlainText())
        except ValueError as error:
            self.refused.emit(str(error))
        else:
            self.edited.emit(values)

    def _on_text(self) -> None:
        assert isinstance(self.editor, LineEdit)
        text = self.editor.text().strip()
        if self.spec.kind == "names":
            self.edited.emit(tuple(part for part in text.replace(",", " ").split() if part))
        else:
            self.edited.emit(text or (None if self.spec.optional else text))


def _key(value: object) -> str:
    """Return a choice as a combo box's data: text, since Qt turns True into 1."""
    return repr(value)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
