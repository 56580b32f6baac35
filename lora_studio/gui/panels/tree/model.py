"""The target tree as a Qt item model over a module tree laid out as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal
from PySide6.QtGui import QBrush, QColor

from lora_studio.gui.panels.tree.nodes import NO_NODE, Bools, Filter, Grouping, Nodes, lay_out, shown_by, visible_rows
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleInfo, ModuleTree

MODULE, SHAPE, RANK, ALPHA, TRAINABLE = range(5)
COLUMNS = 5

_MEANINGS = (
    "Tick a module to give it an adapter; Space ticks every selected row.",
    "Of its weight, as it is stored.",
    "Rank of its update; F2 sets another than the adapter's.",
    "Its lora_alpha; a double click sets another than the adapter's.",
    "Parameters that train in it and below it.",
)

Index = QModelIndex | QPersistentModelIndex
Number = int | float
_NO_INDEX = QModelIndex()
_SPOKEN = {Qt.CheckState.Unchecked: "not ticked", Qt.CheckState.PartiallyChecked: "partly ticked", Qt.CheckState.Checked: "ticked"}
_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)


class TargetModel(QAbstractItemModel):
    """Shows which modules are ticked, with r, alpha and trainable parameters; a person's wishes leave it as signals.

    It never holds the truth: a tick shows at once and emits `ticks_edited`, the draft changes, and `show_targets` is told
    what came of it.

    Signals:
        ticks_edited: A person wants modules ticked or unticked; carries their names and a bool.
        number_edited: A person wants r or alpha of modules to be another; carries names, "r" or "lora_alpha", and the
            number, None for the adapter's own.
        all_changed: Any cell may show something else now: a view paints all it shows, once.
    """

    ticks_edited = Signal(object, bool)
    number_edited = Signal(object, str, object)
    all_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._tree: ModuleTree | None = None
        self._grouping: Grouping = "layer"
        self._filter = Filter("")
        self._ranks: Mapping[str, Number] = {}
        self._alphas: Mapping[str, Number] = {}
        self._defaults: tuple[Number, Number] = (0, 0)
        self._muted = self._disabled = self._accent = QBrush()
        self._lay(None)

    # --- what is shown ---

    @property
    def nodes(self) -> Nodes:
        """The layout that is shown."""
        return self._nodes

    @property
    def shown(self) -> Bools:
        """Which nodes the filter leaves."""
        return self._shown

    @property
    def ticked(self) -> Bools:
        """Which nodes are modules with an adapter."""
        return self._ticked

    @property
    def filter(self) -> Filter:
        """The filter that is applied."""
        return self._filter

    def set_colors(self, muted: QColor, disabled: QColor, accent: QColor) -> None:
        """Take the theme's colours for notes, for what cannot be ticked, and for overrides."""
        self._muted, self._disabled, self._accent = QBrush(muted), QBrush(disabled), QBrush(accent)
        self._repaint()

    def set_tree(self, tree: ModuleTree | None, grouping: Grouping) -> None:
        """Show another tree, or the same grouped otherwise; ticks come with the next `show_targets`."""
        self.beginResetModel()
        self._tree, self._grouping = tree, grouping
        self._lay(tree)
        self.endResetModel()

    def set_filter(self, text: str) -> str:
        """Show only what matches; give what is wrong with the text, else nothing. A faulty one changes nothing."""
        wanted = Filter(text)
        if wanted.error:
            return wanted.error
        self.beginResetModel()
        self._filter = wanted
        self._number_rows()
        self._sum_ticks()
        self.endResetModel()
        return ""

    def show_targets(
        self,
        ranks: Mapping[str, Number],
        alphas: Mapping[str, Number],
        trainable: Mapping[str, int],
        defaults: tuple[Number, Number],
        use_dora: bool = False,
    ) -> None:
        """Show what the draft's adapter comes to.

        Args:
            ranks: r of each module with an adapter, by name.
            alphas: Its alpha, likewise.
            trainable: Parameters that train, by the module they belong to.
            defaults: The adapter's own r and alpha; others are shown as overrides.
            use_dora: Whether adapters have magnitudes beside A and B.
        """
        nodes = self._nodes
        self._ranks, self._alphas, self._defaults = ranks, alphas, defaults
        self._ticked = np.zeros(len(nodes), np.bool_)
        self._ticked[nodes.nodes(ranks)] = True
        known = nodes.node_of
        self._own = np.zeros(len(nodes), np.int64)
        for name, count in trainable.items():
            if name in known:
                self._own[known[name]] += count
        each, beside = nodes.sizes
        self._if_ticked = each * int(defaults[0]) + (beside if use_dora else 0)
        self._sum_ticks()
        self._repaint()

    # --- Qt's questions ---

    def columnCount(self, parent: Index = _NO_INDEX) -> int:
        """Return the number of columns, the same everywhere."""
        return COLUMNS

    def rowCount(self, parent: Index = _NO_INDEX) -> int:
        """Return the number of shown nodes below one."""
        if parent.column() > 0:
            return 0
        return self._count.item(parent.internalId() if parent.isValid() else NO_NODE)

    def hasChildren(self, parent: Index = _NO_INDEX) -> bool:
        """Return whether anything is shown below a node."""
        return self.rowCount(parent) > 0

    def index(self, row: int, column: int, parent: Index = _NO_INDEX) -> QModelIndex:
        """Return the index of a cell."""
        above = parent.internalId() if parent.isValid() else NO_NODE
        if not (0 <= row < self._count.item(above) and 0 <= column < COLUMNS):
            return QModelIndex()
        return self.createIndex(row, column, self._order.item(self._first.item(above) + row))

    def parent(self, index: Index = _NO_INDEX) -> QModelIndex:  # type: ignore[override]
        """Return the index above."""
        if not index.isValid():
            return QModelIndex()
        above = self._parent[index.internalId()]
        return QModelIndex() if above == NO_NODE else self.createIndex(self._row.item(above), 0, above)

    def index_of(self, node: int, column: int = MODULE) -> QModelIndex:
        """Return the index of a shown node."""
        return self.createIndex(self._row.item(node), column, node)

    def shown_below(self, node: int) -> Iterator[int]:
        """Return the shown nodes directly below one, or at the top, in order."""
        first = self._first.item(node)
        return (self._order.item(position) for position in range(first, first + self._count.item(node)))

    def has_shown_below(self, node: int) -> bool:
        """Return whether anything is shown below a node."""
        return self._count.item(node) > 0

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Say what a person can do with a cell; a row without anything to tick is greyed but can be read."""
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        flags = Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled
        column, node = index.column(), index.internalId()
        if not self._possible.item(node):
            return flags
        if column == MODULE:
            return flags | Qt.ItemFlag.ItemIsUserCheckable
        if column in (RANK, ALPHA) and self._sums.item(node):
            return flags | Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows; asked hundreds of times a paint, so each role costs a look-up."""
        if not index.isValid():
            return None
        ask = self._answers.get(role)
        return ask(index.internalId(), index.column()) if ask else None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return a column's title, its meaning, and its alignment."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return (tr("Module"), tr("Shape"), "r", "α", tr("Trainable"))[section]
        if role == Qt.ItemDataRole.ToolTipRole:
            return tr(_MEANINGS[section])
        if role == Qt.ItemDataRole.TextAlignmentRole and section >= RANK:
            return _RIGHT
        return None

    # --- a person's wishes ---

    def setData(self, index: Index, value: object, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Pass on a tick, or an edited r or alpha. A partial box is ticked in full: nobody sets "partial"."""
        if not index.isValid():
            return False
        if role == Qt.ItemDataRole.CheckStateRole:
            return self.toggle([index])
        if role == Qt.ItemDataRole.EditRole and index.column() in (RANK, ALPHA):
            names = self._names(self._selectable(index.internalId()) & self._ticked)
            self.number_edited.emit(names, "r" if index.column() == RANK else "lora_alpha", value)
            return bool(names)
        return False

    def toggle(self, indexes: Iterable[Index]) -> bool:
        """Tick all that can be ticked below these rows; where all of it is ticked already, untick it."""
        below = np.zeros(len(self._nodes), np.bool_)
        for index in indexes:
            below |= self._selectable(index.internalId())
        if not below.any():
            return False
        ticked = not bool(self._ticked[below].all())
        self._ticked[below] = ticked
        self._own[below] = self._if_ticked[below] if ticked else 0
        self._sum_ticks()
        self._repaint()
        self.ticks_edited.emit(self._names(below), ticked)
        return True

    def _selectable(self, node: int) -> Bools:
        ticked = np.zeros(len(self._nodes), np.bool_)
        below = self._nodes.below(node)
        ticked[below] = (self._nodes.targetable & self._shown)[below]
        return ticked

    def _names(self, chosen: Bools) -> list[str]:
        names = self._nodes.names
        return [names[node] for node in np.flatnonzero(chosen).tolist()]

    # --- arrays ---

    def _lay(self, tree: ModuleTree | None) -> None:
        self._nodes = lay_out(tree, self._grouping) if tree else Nodes.empty()
        self._parent: list[int] = self._nodes.parent.tolist()
        self._ticked = np.zeros(len(self._nodes), np.bool_)
        self._own = np.zeros(len(self._nodes), np.int64)
        self._if_ticked = np.zeros(len(self._nodes), np.int64)
        self._texts: dict[int, str] = {}
        self._number_rows()
        self._sum_ticks()
        self._answers: dict[int, Callable[[int, int], Any]] = {
            Qt.ItemDataRole.DisplayRole: self._text,
            Qt.ItemDataRole.CheckStateRole: self._check,
            Qt.ItemDataRole.EditRole: self._number,
            Qt.ItemDataRole.ToolTipRole: self._tooltip,
            Qt.ItemDataRole.TextAlignmentRole: self._alignment,
            Qt.ItemDataRole.AccessibleTextRole: self._spoken,
            Qt.ItemDataRole.ForegroundRole: self._color,
        }

    def _number_rows(self) -> None:
        nodes = self._nodes
        self._shown = shown_by(nodes, self._filter.matching(nodes)) if self._filter else np.ones(len(nodes), np.bool_)
        self._order, self._first, self._count, self._row = visible_rows(nodes, self._shown)

    def _sum_ticks(self) -> None:
        """Add up, for each node, what can be ticked and what is, among the shown, and what trains."""
        can = self._nodes.targetable & self._shown
        self._possible = self._nodes.sums(can)
        self._sums = self._nodes.sums(can & self._ticked)
        self._totals = self._nodes.sums(self._own)

    def _repaint(self) -> None:
        """Let the views paint once, however many nodes changed; `dataChanged` reaches no further than the rows it names."""
        rows = self._count.item(NO_NODE)
        if rows:
            self.dataChanged.emit(self.index(0, 0), self.index(rows - 1, COLUMNS - 1))
            self.all_changed.emit()

    # --- answers by role ---

    def _text(self, node: int, column: int) -> str:
        if column == MODULE:
            return self._nodes.labels[node]
        if column == SHAPE:
            return self._shape(node)
        if column == TRAINABLE:
            total = self._totals.item(node)
            return f"{total:,}" if total else ""
        value = self._number(node, column)
        return "" if value is None else f"{value:g}"

    def _shape(self, node: int) -> str:
        text = self._texts.get(node)
        if text is None:
            text = self._texts[node] = shape_text(self._nodes.module[node], self._parent.count(node) if self._is_list(node) else 0)
        return text

    def _is_list(self, node: int) -> bool:
        return node + 1 < len(self._nodes) and self._parent[node + 1] == node and self._nodes.labels[node + 1].isdecimal()

    def _number(self, node: int, column: int) -> Number | None:
        """Return r or alpha of a module with an adapter."""
        if column not in (RANK, ALPHA) or not self._ticked.item(node):
            return None
        return (self._ranks if column == RANK else self._alphas).get(self._nodes.names[node], self._defaults[column - RANK])

    def _check(self, node: int, column: int) -> Qt.CheckState | None:
        return self.state(node) if column == MODULE and self._possible.item(node) else None

    def state(self, node: int) -> Qt.CheckState:
        """Return whether all that can be ticked at and below a node is, some of it, or none."""
        ticked = self._sums.item(node)
        if not ticked:
            return Qt.CheckState.Unchecked
        return Qt.CheckState.Checked if ticked == self._possible.item(node) else Qt.CheckState.PartiallyChecked

    def _color(self, node: int, column: int) -> QBrush | None:
        if not self._possible.item(node):
            return self._disabled
        if column == SHAPE:
            return self._muted
        value = self._number(node, column)
        return self._accent if value is not None and value != self._defaults[column - RANK] else None

    def _alignment(self, _node: int, column: int) -> int | None:
        return _RIGHT if column >= RANK else None

    def _tooltip(self, node: int, column: int) -> str:
        module = self._nodes.module[node]
        name = self._nodes.names[node]
        text = f"{name} · {module.class_name}" if module is not None else name
        reason = self._nodes.reasons.get(node, "")
        return f"{text}\n{reason}" if reason else text

    def _spoken(self, node: int, column: int) -> str:
        if column != MODULE:
            return self._text(node, column)
        text = tr(_SPOKEN[self.state(node)]) if self._possible.item(node) else self._tooltip(node, column)
        return f"{self._nodes.names[node]}, {text}"


def shape_text(module: ModuleInfo | None, entries: int) -> str:
    """Write a weight's shape, or what there is to know of a node without one: 576 × 576, 30 layers, tied."""
    if module is not None and module.tied_to:
        return tr("tied")
    if module is not None and module.shape:
        return " × ".join(str(size) for size in module.shape)
    return tr("{count} layers", count=entries) if entries > 1 else ""
