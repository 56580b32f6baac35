"""The data of a plot as a table: for reading exact values, for copying, for those who do not see curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QAbstractItemView, QDialog, QDialogButtonBox, QTableView, QVBoxLayout, QWidget

from lora_studio.gui.platform.text import tr
from lora_studio.gui.plots.pyramid import Series

Index = QModelIndex | QPersistentModelIndex
_ROLE = Qt.ItemDataRole.DisplayRole


class PlotTableModel(QAbstractTableModel):
    """One row for each x of any curve, one column for x and for each curve; a snapshot of the moment it is made."""

    def __init__(self, x_label: str, columns: Mapping[str, Series]) -> None:
        super().__init__()
        self._titles = [x_label, *columns]
        parts = [(series.x.copy(), series.y.copy()) for series in columns.values()]
        self._x = np.unique(np.concatenate([x for x, _ in parts])) if parts else np.empty(0)
        self._parts = parts

    def rowCount(self, parent: Index | None = None) -> int:
        """Number of different x."""
        return 0 if parent is not None and parent.isValid() else len(self._x)

    def columnCount(self, parent: Index | None = None) -> int:
        """x and the curves."""
        return 0 if parent is not None and parent.isValid() else len(self._titles)

    def data(self, index: Index, role: int = _ROLE) -> object:
        """The number as text; empty where a curve has no point at that x."""
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role != _ROLE or not index.isValid():
            return None
        return self.text(index.row(), index.column())

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = _ROLE) -> object:
        """Names of the columns, numbers of the rows."""
        if role != _ROLE:
            return None
        return self._titles[section] if orientation == Qt.Orientation.Horizontal else section + 1

    def text(self, row: int, column: int) -> str:
        """Return one cell."""
        x = self._x[row]
        if column == 0:
            return f"{x:.10g}"
        xs, ys = self._parts[column - 1]
        position = int(np.searchsorted(xs, x))
        return f"{ys[position]:.7g}" if position < len(xs) and xs[position] == x else ""

    def as_text(self) -> str:
        """Return the whole table with tabs between cells, as spreadsheets take it."""
        lines = ["\t".join(self._titles)]
        lines += ["\t".join(self.text(row, column) for column in range(len(self._titles))) for row in range(len(self._x))]
        return "\n".join(lines) + "\n"


class PlotTableDialog(QDialog):
    """The table of one plot, with a button that copies it."""

    def __init__(self, title: str, model: PlotTableModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("plot_table_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(tr("{title}: table of its data", title=title))
        self._model = model
        model.setParent(self)
        self.view = QTableView()
        self.view.setObjectName("plot_table")
        self.view.setAccessibleName(title)
        self.view.setModel(model)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.horizontalHeader().setStretchLastSection(True)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        copy = buttons.addButton(tr("Copy all"), QDialogButtonBox.ButtonRole.ActionRole)
        copy.setObjectName("copy_table")
        copy.clicked.connect(self._copy)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(self.view)
        layout.addWidget(buttons)
        self.resize(520, 460)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._model.as_text())
