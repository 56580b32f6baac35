"""Choosing one of several: a combo box that the wheel leaves alone, and a row of pills."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QButtonGroup, QComboBox, QListView, QPushButton, QSizePolicy, QStyleOptionComboBox, QWidget

from lora_studio.gui.widgets.flow import FlowLayout

_ARROW_AND_PADDING = 40  # pixels of a combo box that are not text, as the style sheet has them


class ComboBox(QComboBox):
    """A combo box that scrolling past does not change, and that shortens what it lacks room for."""

    def __init__(self, name: str = "combo", characters: int = 6) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(characters)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        view = QListView()
        view.setObjectName(f"{name}_list")
        view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setView(view)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Change only while focused; otherwise let the panel scroll."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def initStyleOption(self, option: QStyleOptionComboBox) -> None:
        """Shorten the text in the middle where it does not fit: models differ in their ends."""
        super().initStyleOption(option)
        room = self.width() - _ARROW_AND_PADDING
        if self.width() > _ARROW_AND_PADDING:
            option.currentText = self.fontMetrics().elidedText(option.currentText, Qt.TextElideMode.ElideMiddle, room)

    def showPopup(self) -> None:
        """Open the list wide enough for its longest entry, within reason."""
        widest = max((self.fontMetrics().horizontalAdvance(self.itemText(i)) for i in range(self.count())), default=0)
        self.view().setMinimumWidth(min(max(widest + 44, self.width()), 520))
        super().showPopup()

    def minimumSizeHint(self) -> QSize:
        """Room for a few characters and the arrow."""
        hint = super().minimumSizeHint()
        return QSize(min(hint.width(), self.fontMetrics().averageCharWidth() * 6 + _ARROW_AND_PADDING), hint.height())


class Pills(QWidget):
    """A row of small buttons of which at most one is chosen; wraps where it is narrow.

    Signals:
        selected: A person chose the one with this id.
    """

    selected = Signal(str)

    def __init__(self, options: Sequence[tuple[str, str]], name: str = "pills", role: str = "pill") -> None:
        super().__init__()
        self.setObjectName(name)
        self._buttons: dict[str, QPushButton] = {}
        self._group = QButtonGroup(self)
        self._group.setExclusive(False)  # "none chosen" is a state of its own: a selection no preset gives
        layout = FlowLayout(self)
        for identity, title in options:
            button = QPushButton(title)
            button.setObjectName(f"{name}_{identity}")
            button.setProperty("role", role)
            button.setCheckable(True)
            self._group.addButton(button)
            self._buttons[identity] = button
            button.clicked.connect(lambda _on=False, chosen=identity: self._choose(chosen))
            layout.addWidget(button)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    @property
    def current(self) -> str | None:
        """Id of the chosen one, or None."""
        return next((identity for identity, button in self._buttons.items() if button.isChecked()), None)

    def button(self, identity: str) -> QPushButton:
        """Return a pill's button, for its tooltip or to disable it."""
        return self._buttons[identity]

    def set_current(self, identity: str | None) -> None:
        """Mark one as chosen, or none, without a signal."""
        for other, button in self._buttons.items():
            button.setChecked(other == identity)

    def _choose(self, identity: str) -> None:
        self.set_current(identity)
        self.selected.emit(identity)
