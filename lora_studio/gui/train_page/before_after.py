"""Five held-out prompts, answered before and after the run, and the share of answers that have the reference's form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel

from lora_studio.core.events import Sample
from lora_studio.gui.platform.formatting import one_line
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.widgets import Card, label, set_role
from lora_studio.inference.json_score import has_reference_keys, json_keys, json_share

_ROWS_SHOWN = 5
_MOST_PROMPT, _MOST_ANSWER = 110, 150


def share_text(before: Iterable[Sample], after: Iterable[Sample]) -> str:
    """Say how many answers are JSON with the right keys, before and after; empty where no reference is JSON."""
    parts = [tr("{right} of {rows}", right=share.right, rows=share.rows) for share in (json_share(before), json_share(after)) if share]
    return tr("JSON with the right keys: {shares}", shares=" → ".join(parts)) if parts else ""


class BeforeAfterCard(Card):
    """Fills up as samples come in; hidden for a run without any."""

    def __init__(self, run_view: ShownRun) -> None:
        super().__init__(tr("Before / after"), name="before_after_card")
        self._run_view = run_view
        self._seen = 0
        self._shown = run_view.history
        self._cells: list[tuple[QLabel, QLabel, QLabel]] = []
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(14)
        self._grid.setVerticalSpacing(8)
        for column, stretch in enumerate((3, 4, 4)):
            self._grid.setColumnStretch(column, stretch)
            self._grid.setColumnMinimumWidth(column, 90)
        for column, title in enumerate((tr("Held-out prompt"), tr("Before"), tr("After"))):
            self._grid.addWidget(label(title, "note", f"before_after_head_{column}"), 0, column)
        self.body.addLayout(self._grid)
        run_view.changed.connect(self._sync)
        run_view.updated.connect(self._sync)
        self.refresh()

    @property
    def text(self) -> str:
        """The share of answers in the reference's form, as shown in the title row."""
        return self.note.text()

    def refresh(self) -> None:
        """Show the samples of the run."""
        before, after = self._answers("before"), self._answers("after")
        self._seen = len(self._run_view.history.samples)
        self.setVisible(bool(before or after))
        self.set_note(share_text(before.values(), after.values()))
        rows = sorted(before.keys() | after.keys())[:_ROWS_SHOWN]
        while len(self._cells) < len(rows):
            self._add_row()
        for number, cells in enumerate(self._cells):
            row = rows[number] if number < len(rows) else None
            self._fill(cells, before.get(row) if row is not None else None, after.get(row) if row is not None else None)

    def _sync(self) -> None:
        history = self._run_view.history
        if history is not self._shown or len(history.samples) != self._seen:
            self._shown = history
            self.refresh()

    def _answers(self, wanted: str) -> dict[int, Sample]:
        """Return the latest answer of each held-out row."""
        return {sample.row: sample for sample in self._run_view.history.samples if sample.label == wanted}

    def _add_row(self) -> None:
        number = len(self._cells)
        cells = (_cell(f"prompt_{number}", ""), _cell(f"before_{number}", "mono"), _cell(f"after_{number}", "mono"))
        for column, cell in enumerate(cells):
            self._grid.addWidget(cell, number + 1, column)
        self._cells.append(cells)

    @staticmethod
    def _fill(cells: Sequence[QLabel], before: Sample | None, after: Sample | None) -> None:
        asked = before or after
        for cell in cells:
            cell.setVisible(asked is not None)
        if asked is None:
            return
        cells[0].setText(one_line(asked.prompt, _MOST_PROMPT))
        cells[0].setToolTip(f"{asked.prompt}\n\n{tr('Reference:')}\n{asked.reference}")
        for cell, sample in zip(cells[1:], (before, after)):
            _show_answer(cell, sample)


def _show_answer(cell: QLabel, sample: Sample | None) -> None:
    if sample is None:
        cell.setText("…")
        cell.setToolTip("")
        return
    judged = json_keys(sample.reference) is not None
    right = judged and has_reference_keys(sample)
    mark = ("✓ " if right else "✗ ") if judged else ""
    cell.setText(mark + (one_line(sample.text, _MOST_ANSWER) or tr("(empty)")))
    cell.setToolTip(f"{sample.text}\n\n{tr('Reference:')}\n{sample.reference}")
    set_role(cell, "mono_good" if right else "mono")


def _cell(name: str, role: str) -> QLabel:
    cell = label("", role, name, wrap=True)
    cell.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
    cell.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return cell
