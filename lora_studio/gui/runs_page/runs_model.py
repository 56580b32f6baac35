"""The runs on disk as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from lora_studio.core.runs import RunSummary
from lora_studio.gui.platform.formatting import format_seconds, format_when
from lora_studio.gui.platform.text import tr

Index = QModelIndex | QPersistentModelIndex
SORT_ROLE = Qt.ItemDataRole.UserRole + 1
_NONE = "–"


@dataclass(frozen=True)
class Column:
    """One column: its title, its cell's text, and what it sorts by."""

    name: str
    title: str
    text: Callable[[RunSummary], str]
    key: Callable[[RunSummary], object]
    numeric: bool = False


def run_columns() -> tuple[Column, ...]:
    """Return the columns, left to right."""
    states = {
        "new": tr("new"),
        "running": tr("running"),
        "finished": tr("finished"),
        "stopped": tr("stopped"),
        "failed": tr("failed"),
        "interrupted": tr("interrupted"),
    }
    return (
        Column("name", tr("Run"), lambda run: run.name, lambda run: run.name.lower()),
        Column("state", tr("State"), lambda run: states[run.state], lambda run: run.state),
        Column("base", tr("Base model"), lambda run: run.base_model.rstrip("/").rpartition("/")[2], lambda run: run.base_model.lower()),
        Column("r", "r", lambda run: str(run.r), lambda run: run.r, numeric=True),
        Column("alpha", "α", lambda run: f"{run.lora_alpha:g}", lambda run: run.lora_alpha, numeric=True),
        Column("steps", tr("Steps"), _steps, lambda run: run.steps, numeric=True),
        Column("loss", tr("Loss"), lambda run: _loss(run.last_loss), lambda run: _or_infinity(run.last_loss), numeric=True),
        Column("eval", tr("Best eval"), lambda run: _loss(run.best_eval), lambda run: _or_infinity(run.best_eval), numeric=True),
        Column("when", tr("When"), lambda run: format_when(run.started) if run.started else _NONE, lambda run: run.started or float("inf")),
        Column("duration", tr("Took"), _duration, lambda run: run.duration, numeric=True),
    )


class RunsModel(QAbstractTableModel):
    """One row a run; cells are made once, when the list is read."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._columns = run_columns()
        self._runs: list[RunSummary] = []
        self._queued: Set[str] = frozenset()
        self._texts: list[list[str]] = []

    @property
    def runs(self) -> Sequence[RunSummary]:
        """The runs, in the store's order."""
        return self._runs

    def column(self, name: str) -> int:
        """Return a column's place by its name."""
        return [column.name for column in self._columns].index(name)

    def set_runs(self, runs: Sequence[RunSummary], queued: Set[str] = frozenset()) -> None:
        """Show these runs; a list that says the same changes nothing, so a selection stays.

        Args:
            runs: The runs, in the store's order.
            queued: Names of the folders of those that wait for the device.
        """
        if list(runs) == self._runs and queued == self._queued:
            return
        self.beginResetModel()
        self._runs, self._queued = list(runs), queued
        self._texts = [[column.text(run) for column in self._columns] for run in runs]
        for run, texts in zip(runs, self._texts, strict=True):
            if run.path.name in queued:
                texts[self.column("state")] = tr("queued")
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the runs."""
        return 0 if parent.isValid() else len(self._runs)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the columns."""
        return 0 if parent.isValid() else len(self._columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a column's title, on the side its cells are on."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self._columns[section].title
        return self._alignment(section) if role == Qt.ItemDataRole.TextAlignmentRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a cell's text, sort key, tooltip, or its whole run as user data."""
        run = self._runs[index.row()]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._texts[index.row()][index.column()]
            case Qt.ItemDataRole.TextAlignmentRole:
                return self._alignment(index.column())
            case Qt.ItemDataRole.ToolTipRole:
                return f"{run.path}\n{run.base_model}"
            case Qt.ItemDataRole.UserRole:
                return run
            case _:
                return self._columns[index.column()].key(run) if role == SORT_ROLE else None

    def _alignment(self, column: int) -> Qt.AlignmentFlag:
        side = Qt.AlignmentFlag.AlignRight if self._columns[column].numeric else Qt.AlignmentFlag.AlignLeft
        return side | Qt.AlignmentFlag.AlignVCenter


def _steps(run: RunSummary) -> str:
    return f"{run.steps} / {run.total_steps}" if run.total_steps else _NONE


def _duration(run: RunSummary) -> str:
    return format_seconds(run.duration) if run.duration else _NONE


def _loss(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _or_infinity(value: float | None) -> float:
    return float("inf") if value is None else value
