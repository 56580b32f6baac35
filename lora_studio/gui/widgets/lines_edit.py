"""`LinesEdit`: a few lines of text, handed over when a person leaves them."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent, QKeySequence
from PySide6.QtWidgets import QPlainTextEdit

from lora_studio.gui.widgets.number_edit import mark_error

_LINES = 3
_FRAME = 14  # of the editor in pixels, as the style sheet has it


class LinesEdit(QPlainTextEdit):
    """A few lines of text; Tab goes on to the next field, Ctrl+Return hands them over at once.

    Signals:
        editing_finished: The lines were edited and left.
    """

    editing_finished = Signal()

    def __init__(self, name: str = "lines_edit") -> None:
        super().__init__()
        self.setObjectName(name)
        self.setTabChangesFocus(True)
        self.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._fit()

    def set_error(self, message: str) -> None:
        """Mark the lines as wrong and say why in their tooltip; an empty message unmarks them."""
        mark_error(self, message)

    def show_text(self, text: str) -> None:
        """Show other lines, which nobody has edited."""
        self.setPlainText(text)
        self.document().setModified(False)

    def event(self, event: QEvent) -> bool:
        """Let undo and redo pass to the window unless there is typing to undo."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) and self._is_for_the_draft(event):
            event.ignore()
            return False
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Hand over at Ctrl+Return."""
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if enter and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._hand_over()
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Hand over what was edited."""
        super().focusOutEvent(event)
        self._hand_over()

    def changeEvent(self, event: QEvent) -> None:
        """Stay as high as the lines need when the text size changes."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit()

    def _hand_over(self) -> None:
        if self.document().isModified():
            self.document().setModified(False)
            self.editing_finished.emit()

    def _is_for_the_draft(self, event: QKeyEvent) -> bool:
        document = self.document()
        if event.matches(QKeySequence.StandardKey.Undo):
            return not (document.isModified() and document.isUndoAvailable())
        return event.matches(QKeySequence.StandardKey.Redo) and not document.isRedoAvailable()

    def _fit(self) -> None:
        self.setFixedHeight(_LINES * self.fontMetrics().lineSpacing() + _FRAME)
