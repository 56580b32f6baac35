"""Which of the rows that training makes of a conversation is shown, where each answer is trained in a row of its own."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker

from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import ComboBox


class AnswerChoice(ComboBox):
    """Goes from answer to answer; not there where a row is trained as it is."""

    def __init__(self, name: str) -> None:
        super().__init__(name, characters=14)
        self.setAccessibleName(tr("Answer"))
        self.setToolTip(tr("With data.train_on: each, every answer is trained in a row of its own that ends with it."))
        self.offer(1)

    @property
    def chosen(self) -> int:
        """Which one, counted from 0."""
        return max(0, self.currentIndex())

    def offer(self, count: int, chosen: int = 0) -> None:
        """Offer so many, one of them chosen; no signal says so."""
        with QSignalBlocker(self):
            if count != self.count():
                self.clear()
                self.addItems([tr("Answer {number} of {count}", number=number, count=count) for number in range(1, count + 1)])
            self.setCurrentIndex(min(chosen, count - 1))
        self.setVisible(count > 1)
