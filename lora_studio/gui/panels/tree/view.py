"""The view of the target tree: keys, editing of r and alpha in place, and which nodes stand open."""

from __future__ import annotations

from PySide6.QtCore import QAbstractItemModel, QEvent, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QLineEdit, QStyledItemDelegate, QStyleOptionViewItem, QTreeView, QWidget

from lora_studio.gui.panels.tree.model import ALPHA, MODULE, RANK, SHAPE, TRAINABLE, TargetModel
from lora_studio.gui.panels.tree.nodes import NO_NODE
from lora_studio.gui.platform.text import tr

_INDENTATION = 11
_MOST_OPENED_ROWS = 300
_COLUMN_LETTERS = {SHAPE: 10.8, RANK: 3.5, ALPHA: 3.5, TRAINABLE: 9.4}

Index = QModelIndex | QPersistentModelIndex


class NumberDelegate(QStyledItemDelegate):
    """Edits r and alpha as text; the draft judges what was typed, and an empty text takes the override away."""

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        """Return a line edit, whatever the value's type: Qt's spin boxes hold 32 bits and two decimals."""
        editor = QLineEdit(parent)
        editor.setObjectName("edit_target_r" if index.column() == RANK else "edit_target_alpha")
        editor.setAlignment(Qt.AlignmentFlag.AlignRight)
        editor.setFrame(False)
        return editor

    def setEditorData(self, editor: QWidget, index: Index) -> None:
        """Show the number to change."""
        assert isinstance(editor, QLineEdit)
        editor.setText(str(index.data(Qt.ItemDataRole.DisplayRole) or ""))
        editor.selectAll()

    def setModelData(self, editor: QWidget, model: QAbstractItemModel, index: Index) -> None:
        """Hand on what was typed, where it is something else."""
        assert isinstance(editor, QLineEdit)
        if editor.text().strip() != str(index.data(Qt.ItemDataRole.DisplayRole) or ""):
            model.setData(index, editor.text().strip())


class TargetView(QTreeView):
    """Space ticks every selected row from any column, F2 edits r; nodes that were open stay open."""

    def __init__(self, model: TargetModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("target_tree")
        self.setAccessibleName(tr("Target modules"))
        self._targets = model
        self._open: set[str] = set()
        self._restoring = False
        self.setModel(model)
        self.setItemDelegate(NumberDelegate(self))
        self.setUniformRowHeights(True)
        self.setIndentation(_INDENTATION)
        self.setAnimated(False)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
        self.setExpandsOnDoubleClick(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._set_columns()
        model.all_changed.connect(self.viewport().update)
        self.expanded.connect(self._on_expanded)
        self.collapsed.connect(self._on_collapsed)

    def open_first(self) -> None:
        """Open a tree seen for the first time: down to the first layer, the other layers closed."""
        self._open = set()
        nodes, node = self._targets.nodes, 0
        while node < len(nodes):
            opened = self._is_worth_opening(node)
            if opened:
                self._open.add(nodes.names[node])
            node = node + 1 if opened else int(nodes.end[node])
        self.restore()

    def restore(self) -> None:
        """Open, after the model was laid out anew, what was open; with a filter, whatever leads to a match."""
        self._restoring = True
        rows = 0
        waiting = [self._targets.shown_below(NO_NODE)]
        while waiting and rows < _MOST_OPENED_ROWS:
            node = next(waiting[-1], None)
            if node is None:
                waiting.pop()
                continue
            rows += 1
            if self._stays_open(node):
                self.setExpanded(self._targets.index_of(node), True)
                waiting.append(self._targets.shown_below(node))
        self._restoring = False

    def _stays_open(self, node: int) -> bool:
        targets = self._targets
        return targets.has_shown_below(node) and (bool(targets.filter) or targets.nodes.names[node] in self._open)

    def changeEvent(self, event: QEvent) -> None:
        """Fit the columns to another text size."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit_columns()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Take Space and F2; the arrows and the rest are Qt's."""
        if event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Select):
            self._targets.toggle(self._selected())
        elif event.key() == Qt.Key.Key_F2:
            self._edit_rank()
        else:
            super().keyPressEvent(event)

    def _selected(self) -> list[QModelIndex]:
        rows = self.selectionModel().selectedRows(MODULE)
        current = self.currentIndex()
        return rows or ([current.siblingAtColumn(MODULE)] if current.isValid() else [])

    def _edit_rank(self) -> None:
        index = self.currentIndex().siblingAtColumn(RANK)
        if index.isValid() and index.flags() & Qt.ItemFlag.ItemIsEditable:
            self.edit(index)

    def _set_columns(self) -> None:
        header = self.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(24)
        header.setSectionResizeMode(MODULE, QHeaderView.ResizeMode.Stretch)
        for column in (SHAPE, RANK, ALPHA, TRAINABLE):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
        self._fit_columns()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)

    def _fit_columns(self) -> None:
        letter = self.fontMetrics().horizontalAdvance("0")
        for column, letters in _COLUMN_LETTERS.items():
            self.header().resizeSection(column, round(letters * letter))

    def _is_worth_opening(self, node: int) -> bool:
        """Return whether to open a node whose parent is open: not the later layers, nor one module's copies by layer."""
        nodes = self._targets.nodes
        end = int(nodes.end[node])
        if end == node + 1 or (nodes.labels[node].isdecimal() and nodes.labels[node] != "0"):
            return False
        numbered = nodes.labels[node + 1].partition(".")[0].isdecimal()
        return not (numbered and nodes.end[node + 1] == node + 2)

    def _on_expanded(self, index: QModelIndex) -> None:
        if not self._restoring and not self._targets.filter:
            self._open.add(self._targets.nodes.names[index.internalId()])

    def _on_collapsed(self, index: QModelIndex) -> None:
        if not self._restoring and not self._targets.filter:
            self._open.discard(self._targets.nodes.names[index.internalId()])
