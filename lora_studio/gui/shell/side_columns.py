"""The window's three columns: splitters where there is room, rails that open as overlays where there is not."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QApplication, QFrame, QHBoxLayout, QScrollArea, QSplitter, QVBoxLayout, QWidget

from lora_studio.gui.widgets import Overlay, Rail, RailEntry

RIGHT_RAIL_BELOW, LEFT_RAIL_BELOW = 1360, 1120  # widths of the window in logical pixels
_GAP = 10
_WIDTHS = {"left": 410, "right": 310}
_NARROWEST = {"left": 320, "right": 270}


class Column(QWidget):
    """A side column: what stays at its top, cards that scroll, and what stays at its foot.

    Attributes:
        top: Layout of what stays above.
        cards: Layout of what scrolls.
        bottom: Layout of what stays below.
    """

    def __init__(self, side: str) -> None:
        super().__init__()
        self.setObjectName(f"{side}_column")
        self.top, self.cards, self.bottom = QVBoxLayout(), QVBoxLayout(), QVBoxLayout()
        self._body = QWidget()
        self._body.setObjectName("column_body")
        self._body.setLayout(self.cards)
        self.cards.setContentsMargins(0, 0, 0, 0)
        self.cards.setSpacing(_GAP)
        self.area = QScrollArea()
        self.area.setObjectName(f"{side}_scroll")
        self.area.setWidget(self._body)
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        self.area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(self.top)
        layout.addWidget(self.area, 1)
        layout.addLayout(self.bottom)

    def reveal(self, widget: QWidget) -> None:
        """Scroll a card into view, its top first."""
        self.area.verticalScrollBar().setValue(widget.y())


class Side(QObject):
    """One side of the window: its column in the splitter, or its rail and the overlay the column moves into.

    Signals:
        changed: The column shows or hides, or moves.
    """

    changed = Signal()

    def __init__(self, name: str, entries: Sequence[RailEntry], area: QWidget, splitter: QSplitter) -> None:
        super().__init__(area)
        self.name = name
        self.column = Column(name)
        self.rail = Rail(entries, f"{name}_rail")
        self.overlay = Overlay(area, name, f"{name}_overlay")
        self.wanted = True
        self._splitter = splitter
        self._place = 0 if name == "left" else 2
        self._cards: dict[str, QWidget] = {}
        self.column.setMinimumWidth(_NARROWEST[name])
        self.rail.opened.connect(self.open_at)
        self.overlay.closed.connect(self.changed)
        self.rail.hide()

    @property
    def docked(self) -> bool:
        """Whether the column sits in the splitter."""
        return self.column.parent() is self._splitter

    @property
    def open(self) -> bool:
        """Whether the column can be seen."""
        return self.docked or not self.overlay.isHidden()

    def add_card(self, identity: str, card: QWidget, stretch: int = 0) -> None:
        """Add a card below those there; its id is that of its rail entry."""
        self.column.cards.insertWidget(len(self._cards), card, stretch)  # before the stretch at the end, where there is one
        self._cards[identity] = card

    def clear(self) -> None:
        """Take all cards away."""
        for card in self._cards.values():
            self.column.cards.removeWidget(card)
            card.hide()
            card.deleteLater()
        self._cards.clear()

    def lay_out(self, room: bool) -> None:
        """Dock the column where there is room and it is wanted, else fold it up."""
        dock = room and self.wanted
        if dock and not self.docked:
            self.overlay.hide()
            self._splitter.insertWidget(min(self._place, self._splitter.count()), self.column)
            self.column.show()
        elif not dock and (self.docked or self.column.parent() is None):
            self.overlay.content.addWidget(self.column)
        self.rail.setVisible(not dock)
        self.changed.emit()

    def open_at(self, identity: str) -> None:
        """Show the column with a card scrolled into view."""
        if not self.docked:
            self.overlay.open(max(self.column.minimumWidth(), _WIDTHS[self.name]) + 14)
            self.changed.emit()
        card = self._cards.get(identity)
        if card is not None:
            QTimer.singleShot(0, card, lambda: self.column.reveal(card))

    def close(self) -> None:
        """Close the overlay."""
        self.overlay.close_overlay()


class Columns(QWidget):
    """Left column, middle, right column.

    Signals:
        changed: A side shows or hides.
    """

    changed = Signal()

    def __init__(self, left: Sequence[RailEntry], right: Sequence[RailEntry], middle: QWidget) -> None:
        super().__init__()
        self.setObjectName("page_area")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._splitter = QSplitter(Qt.Orientation.Horizontal)
        self._splitter.setObjectName("columns_splitter")
        self._splitter.setHandleWidth(_GAP)
        self._splitter.setChildrenCollapsible(False)
        self._splitter.addWidget(middle)
        middle.setMinimumWidth(360)
        self._middle = middle
        self.left = Side("left", left, self, self._splitter)
        self.right = Side("right", right, self, self._splitter)
        self._widths: tuple[int, ...] = ()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(_GAP, _GAP, _GAP, _GAP)
        layout.setSpacing(_GAP)
        layout.addWidget(self.left.rail)
        layout.addWidget(self._splitter, 1)
        layout.addWidget(self.right.rail)
        for side in (self.left, self.right):
            side.changed.connect(self._on_side)
        self._watching = False
        self._lay_out(self.width())

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the splitter's columns in pixels, where all three are docked; else the last such."""
        return tuple(self._splitter.sizes()) if self._splitter.count() == 3 else self._widths

    def set_widths(self, widths: Sequence[int]) -> None:
        """Set the widths remembered from last time."""
        if len(widths) == 3 and min(widths) > 0:
            self._widths = tuple(widths)
            self._share()

    def toggle(self, side: Side) -> None:
        """Show or hide a side: docked where there is room, as an overlay where there is not."""
        if self._has_room(side, self.width()):
            side.wanted = not side.wanted
            self._lay_out(self.width())
        elif side.open:
            side.close()
        else:
            side.open_at("")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fold and unfold the sides."""
        super().resizeEvent(event)
        self._lay_out(event.size().width())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Close an overlay when something beside it is pressed."""
        if event.type() == QEvent.Type.MouseButtonPress and isinstance(watched, QWidget) and watched.window() is self.window():
            for side in (self.left, self.right):
                inside = watched is side.overlay or side.overlay.isAncestorOf(watched) or side.rail.isAncestorOf(watched)
                if not side.overlay.isHidden() and not inside:
                    side.close()
        return False

    def _has_room(self, side: Side, width: int) -> bool:
        return width >= (LEFT_RAIL_BELOW if side is self.left else RIGHT_RAIL_BELOW)

    def _lay_out(self, width: int) -> None:
        states = (self.left.docked, self.right.docked)
        for side in (self.left, self.right):
            room = self._has_room(side, width)
            if room and not side.overlay.isHidden():
                side.overlay.hide()
            side.lay_out(room)
        if states != (self.left.docked, self.right.docked):
            self._share()

    def _share(self) -> None:
        """Share the width: docked columns take theirs, the middle the rest."""
        left, right = (self._widths[0], self._widths[2]) if self._widths else (_WIDTHS["left"], _WIDTHS["right"])
        sizes = [left] if self.left.docked else []
        sizes.append(max(self.width() - left - right - 4 * _GAP, 100))
        sizes += [right] if self.right.docked else []
        self._splitter.setSizes(sizes)
        self._splitter.setStretchFactor(self._splitter.indexOf(self._middle), 1)
        for side in (self.left, self.right):
            if side.docked:
                self._splitter.setStretchFactor(self._splitter.indexOf(side.column), 0)

    def _on_side(self) -> None:
        """Watch presses only while an overlay is open: the filter sees every event of the application."""
        overlaid = not (self.left.overlay.isHidden() and self.right.overlay.isHidden())
        app = QApplication.instance()
        if app is not None and overlaid != self._watching:
            (app.installEventFilter if overlaid else app.removeEventFilter)(self)
            self._watching = overlaid
        self.changed.emit()
