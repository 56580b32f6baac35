"""The mask lens with its legend and its read-out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QRect, QSize
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from lora_studio.data.rows.row import Row
from lora_studio.gui.data_page.answer_choice import AnswerChoice
from lora_studio.gui.data_page.lens.lens_colors import chip_styles, paint_chip
from lora_studio.gui.data_page.lens.lens_reader import LensReader
from lora_studio.gui.data_page.lens.lens_tokens import STATES, LensTokens, state_name
from lora_studio.gui.data_page.lens.lens_view import LensView
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors
from lora_studio.gui.widgets import FlowLayout, label

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

_TIPS = {
    "trained": "The model learns to say these tokens.",
    "context": "The model reads these tokens and is not trained on them.",
    "cut": "These tokens are beyond max_length: the model never sees them.",
    "padding": "These fill the row up to the longest of its micro-batch; they count for nothing.",
}


class ChipSample(QWidget):
    """A token's look, for the legend."""

    def __init__(self, state: str) -> None:
        super().__init__()
        self.setObjectName(f"sample_{state}")
        self._state = state
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """Two letters."""
        return QSize(2 * self.fontMetrics().horizontalAdvance("a") + 8, self.fontMetrics().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        paint_chip(QPainter(self), QRect(0, 0, self.width(), self.height()), "ab", chip_styles(colors())[self._state])


class Legend(QWidget):
    """What each look means, and how many tokens have it."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("lens_legend")
        self.counts: dict[str, QLabel] = {}
        self._padding = QWidget()
        flow = FlowLayout(self, spacing=10)
        for state in STATES:
            self.counts[state] = label("", "note", f"legend_{state}")
            entry = QWidget()
            entry.setObjectName(f"legend_entry_{state}")
            entry.setToolTip(tr(_TIPS[state]))
            line = QHBoxLayout(entry)
            line.setContentsMargins(0, 0, 0, 0)
            line.setSpacing(5)
            line.addWidget(ChipSample(state))
            line.addWidget(self.counts[state])
            flow.addWidget(entry)
            if state == "padding":
                self._padding = entry
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.show_tokens(LensTokens())

    def show_tokens(self, tokens: LensTokens) -> None:
        """Count these."""
        for state, count in self.counts.items():
            count.setText(f"{state_name(state)} {format_count(tokens.counts[state])}")
            if state == "padding":  # a row by itself has none
                self._padding.setVisible(bool(tokens.counts[state]))


class LensPane(QWidget):
    """Legend, the choice of an answer, tokens, and what is told of the token under the pointer or the keyboard."""

    def __init__(self, workspace: Workspace, jobs: JobCenter) -> None:
        super().__init__()
        self.setObjectName("lens_pane")
        self.reader = LensReader(workspace, jobs, self)
        self.view = LensView()
        self.legend = Legend()
        self.answer = AnswerChoice("lens_answer")
        self._note = label("", "note", "lens_note", wrap=True)
        self._read_out = label("", "mono", "lens_read_out", wrap=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.legend)
        layout.addWidget(self.answer)
        layout.addWidget(self._note)
        layout.addWidget(self.view, 1)
        layout.addWidget(self._read_out)
        self.view.told.connect(self._tell)
        self.reader.changed.connect(self._refresh)
        self.answer.currentIndexChanged.connect(self.reader.choose)
        self._refresh()

    def show_row(self, row: Row | None) -> None:
        """Show the tokens of another row, or of none."""
        self.reader.read(row)

    def set_wanted(self, wanted: bool) -> None:
        """Say whether the lens is looked at."""
        self.reader.set_wanted(wanted)

    def _refresh(self) -> None:
        tokens = self.reader.tokens or LensTokens()
        self.answer.offer(self.reader.answers, self.reader.answer)
        if tokens is not self.view.tokens:
            self.view.show_tokens(tokens)
            self.legend.show_tokens(tokens)
        self._note.setText(self.reader.note)
        self._note.setVisible(bool(self.reader.note))

    def _tell(self, place: int | None) -> None:
        self._read_out.setText(self.view.tokens.told(place) if place is not None else tr("Point at a token, or walk with the arrow keys."))
