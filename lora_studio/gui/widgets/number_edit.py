"""`NumberEdit`: 64-bit integers and floats with scientific notation, always with a decimal point, whatever the locale.

Qt's spin boxes hold 32 bits, show 2e-4 as 0.00 and follow the locale.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent, QKeySequence, QWheelEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from lora_studio.gui.platform.text import tr

Number = int | float
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_LARGEST = (1 << 63) - 1
_SCIENTIFIC_BELOW, _SCIENTIFIC_FROM = 1e-3, 1e7


def format_number(value: Number) -> str:
    """Write a number the shortest way that reads back as itself: `1,024`, `0.05`, `2e-4`."""
    if isinstance(value, int):
        return f"{value:,}"
    if not value or not math.isfinite(value):
        return str(value) if value else "0"
    if _SCIENTIFIC_BELOW <= abs(value) < _SCIENTIFIC_FROM:
        return format(Decimal(repr(value)).normalize(), "f")
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text = "".join(map(str, digits))
    mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}e{int(exponent) + len(text) - 1}"


def parse_number(text: str, whole: bool) -> Number:
    """Read a number as a person writes it: `1024`, `1,024`, `1e3`, `2e-4`.

    Raises:
        ValueError: It is no number, no whole one where `whole` asks for it, or beyond 64 bits; said in words.
    """
    plain = text.strip().replace("_", "").replace("−", "-")
    if _GROUPED.fullmatch(plain):
        plain = plain.replace(",", "")
    if "," in plain:
        raise ValueError(tr("Write decimals with a point, such as 0.05."))
    try:
        exact = Decimal(plain)
    except ArithmeticError:
        raise ValueError(tr("This is not a number.") if plain else tr("A number is needed here.")) from None
    if not exact.is_finite():
        raise ValueError(tr("This is not a finite number."))
    return _whole(exact) if whole else _real(exact)


def _whole(exact: Decimal) -> int:
    if exact.adjusted() > 19 or abs(exact) > _LARGEST:
        raise ValueError(tr("This is beyond 64 bits."))
    if exact != exact.to_integral_value():
        raise ValueError(tr("This must be a whole number."))
    return int(exact)


def _real(exact: Decimal) -> float:
    value = float(exact)
    if math.isinf(value):
        raise ValueError(tr("This number is too large."))
    return value


def mark_error(editor: QWidget, message: str) -> None:
    """Mark an editor as wrong and say why in its tooltip; an empty message unmarks it."""
    if str(editor.property("error_text") or "") == message:
        return
    if not editor.property("error_text"):
        editor.setProperty("own_tip", editor.toolTip())
    editor.setProperty("error_text", message)
    editor.setProperty("error", bool(message))
    editor.setToolTip(message or str(editor.property("own_tip") or ""))
    editor.setAccessibleDescription(message)
    editor.style().unpolish(editor)
    editor.style().polish(editor)


class LineEdit(QLineEdit):
    """A line of text that keeps Ctrl+Z to itself only while it has typing of its own to take back.

    Qt's own takes the shortcut always, so that the draft's undo would never hear of it.
    """

    def __init__(self, text: str = "", name: str = "line_edit") -> None:
        super().__init__(text)
        self.setObjectName(name)

    def event(self, event: QEvent) -> bool:
        """Let undo and redo pass to the window unless there is typing to undo."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) and self._is_for_the_draft(event):
            event.ignore()
            return False
        return super().event(event)

    def set_error(self, message: str) -> None:
        """Mark the field as wrong and say why in its tooltip; an empty message unmarks it."""
        mark_error(self, message)

    @property
    def error(self) -> str:
        """What is wrong with the text, or an empty string."""
        return str(self.property("error_text") or "")

    def _is_for_the_draft(self, event: QKeyEvent) -> bool:
        if event.matches(QKeySequence.StandardKey.Undo):
            return not (self.isModified() and self.isUndoAvailable())
        return event.matches(QKeySequence.StandardKey.Redo) and not self.isRedoAvailable()


class NumberEdit(LineEdit):
    """An editor for one number.

    What does not parse stays as it was typed, marked, and is not given on. Up and Down change by one (a tenth of the
    number's size for floats), with Shift by ten; the wheel does so only while the editor has the focus.

    Signals:
        value_edited: A person gave a new number (object: int or float, 64 bits); not sent by `set_value`.
    """

    value_edited = Signal(object)

    def __init__(self, whole: bool = False, minimum: Number | None = None, maximum: Number | None = None, name: str = "number") -> None:
        super().__init__("", name)
        self._whole = whole
        self._minimum = minimum
        self._maximum = maximum
        self._value: Number | None = None
        self.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.setInputMethodHints(Qt.InputMethodHint.ImhFormattedNumbersOnly)
        self.editingFinished.connect(self.commit)
        self.textEdited.connect(self._look_at)

    @property
    def value(self) -> Number | None:
        """The number last set or given by a person; None before any."""
        return self._value

    def set_range(self, minimum: Number | None, maximum: Number | None) -> None:
        """Set what Up, Down and the wheel stay inside; the config itself decides what is right."""
        self._minimum, self._maximum = minimum, maximum

    def set_value(self, value: Number | None) -> None:
        """Show a number without a signal; text being typed that does not parse gives way to it."""
        self._value = value
        text = "" if value is None else format_number(value)
        if text != self.text():
            self.setText(text)
        self.setModified(False)
        self.set_error("")

    def commit(self) -> bool:
        """Take what is typed; give whether it is a number. An unchanged number sends no signal."""
        if not self.isModified():
            return not self.error
        try:
            value = parse_number(self.text(), self._whole)
        except ValueError as error:
            self.set_error(str(error))
            return False
        self.setModified(False)
        self.set_error("")
        self._take(value)
        return True

    def step_by(self, steps: int) -> None:
        """Change the number by steps, as the Up key does."""
        if self.commit() and self._value is not None:
            value = self._inside(self._value + steps * self._step())
            self._take(int(value) if self._whole else float(f"{value:.12g}"))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up and Down step; Escape takes typing back."""
        direction = {Qt.Key.Key_Up: 1, Qt.Key.Key_Down: -1}.get(Qt.Key(event.key()))
        if direction is not None:
            self.step_by(direction * (10 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1))
        elif event.key() == Qt.Key.Key_Escape and self.isModified():
            self.set_value(self._value)
        else:
            super().keyPressEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Step while focused; otherwise let the panel scroll."""
        if self.hasFocus() and event.angleDelta().y():
            self.step_by(1 if event.angleDelta().y() > 0 else -1)
            event.accept()
        else:
            event.ignore()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Select the number when it is reached by the keyboard."""
        super().focusInEvent(event)
        if event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason):
            self.selectAll()

    def _look_at(self, text: str) -> None:
        if self.error:
            try:
                parse_number(text, self._whole)
            except ValueError:
                return
            self.set_error("")

    def _take(self, value: Number) -> None:
        changed = value != self._value
        self._value = value
        self.setText(format_number(value))
        if changed:
            self.value_edited.emit(value)

    def _step(self) -> Number:
        if self._whole or not self._value:
            return 1 if self._whole else 0.01
        return 10.0 ** (math.floor(math.log10(abs(self._value)) + 1e-9) - 1)

    def _inside(self, value: Number) -> Number:
        if self._minimum is not None:
            value = max(value, self._minimum)
        return value if self._maximum is None else min(value, self._maximum)
