"""The mask lens: the tokens of a row as flowing text, each as what becomes of it. Only what is in view is painted."""

from __future__ import annotations

from collections.abc import Iterator

from PySide6.QtCore import QEvent, QPoint, QRect, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QFontMetrics,
    QGuiApplication,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame

from lora_studio.gui.data_page.lens.lens_colors import chip_styles, paint_chip
from lora_studio.gui.data_page.lens.lens_layout import LensLayout
from lora_studio.gui.data_page.lens.lens_tokens import LensTokens
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, theme
from lora_studio.gui.theme.fonts import mono_font

_AT_ONCE = 4000  # tokens laid out between two looks at the event loop: a few milliseconds
_LEADING = 6  # pixels between lines
_MARGIN = 8


class LensView(QAbstractScrollArea):
    """Shows tokens; arrow keys and the pointer go from one to the next.

    Attributes:
        painted: How many tokens the last picture took.

    Signals:
        told: The token under the pointer, or else the current one, is another; carries its place, or None.
    """

    told = Signal(object)

    def __init__(self, name: str = "lens_view") -> None:
        super().__init__()
        self.setObjectName(name)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.viewport().setMouseTracking(True)
        self.viewport().setObjectName(f"{name}_port")
        self.painted = 0
        self._tokens = LensTokens()
        self._current: int | None = None
        self._hovered: int | None = None
        self._wanted: int | None = None
        self._timer = QTimer(self, interval=0)
        self._timer.timeout.connect(self._go_on)
        self._take_font()
        self._layout = LensLayout(self._tokens, 1, self._metrics.horizontalAdvance)
        self.show_tokens(self._tokens)
        theme().changed.connect(self._on_theme)

    @property
    def tokens(self) -> LensTokens:
        """What is shown."""
        return self._tokens

    @property
    def current(self) -> int | None:
        """The token the keyboard is at."""
        return self._current

    @property
    def pointed(self) -> int | None:
        """The token under the pointer, or else the current one."""
        return self._current if self._hovered is None else self._hovered

    @property
    def laid_out(self) -> bool:
        """Whether every token has its place."""
        return self._layout.complete

    def show_tokens(self, tokens: LensTokens) -> None:
        """Show the tokens of another row, from its start."""
        self._tokens = tokens
        self._current = 0 if tokens else None
        self._hovered = self._wanted = None
        self.verticalScrollBar().setValue(0)
        self._lay_out()
        self.setAccessibleName(tr("Tokens of the selected row. {summary}", summary=tokens.summary) if tokens else tr("No tokens"))
        self._tell()

    def go_to(self, place: int) -> None:
        """Make a token the current one and scroll it into view, as soon as it has its place."""
        if not 0 <= place < len(self._tokens):
            return
        self._current, self._hovered = place, None
        self._wanted = place if place >= self._layout.done else None
        if self._wanted is None:
            self._reveal(place)
        self._tell()
        self.viewport().update()

    def area_of(self, place: int) -> QRect:
        """Return where a token that has its place stands in the viewport."""
        return next(area for index, area in self._areas(self._layout.line_of(place)) if index == place)

    def sizeHint(self) -> QSize:
        """A few lines."""
        return QSize(300, 8 * self._line_height)

    def minimumSizeHint(self) -> QSize:
        """Two lines."""
        return QSize(120, 2 * self._line_height + 2 * _MARGIN)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the tokens of the lines in view."""
        painter = QPainter(self.viewport())
        painter.fillRect(self.viewport().rect(), QColor(colors().surface))
        painter.setFont(self._font)
        styles = chip_styles(colors())
        self.painted = 0
        for line in self._lines_in(event.rect()):
            for position, area in self._areas(line):
                paint_chip(painter, area, self._tokens.shown(position), styles[self._tokens.states[position]])
                self.painted += 1
        self._paint_pointed(painter)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Break the lines anew; what stood at the top stays there."""
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            top = self._first_in_view()
            self._lay_out()
            if top:
                self._layout.go_on(top + _AT_ONCE)
                self._set_range()
                self.verticalScrollBar().setValue(self._layout.line_of(top) * self._line_height)
        self._set_range()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go to a neighbour; copy what is told of the current token."""
        if self._current is None:
            super().keyPressEvent(event)
        elif event.matches(QKeySequence.StandardKey.Copy):
            QGuiApplication.clipboard().setText(self._tokens.told(self._current))
        elif (position := self._neighbour(event)) is not None:
            self.go_to(min(max(position, 0), len(self._tokens) - 1))
        else:
            super().keyPressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell of the token under the pointer."""
        self._hover(self._token_at(event.position().toPoint()))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Make the token under the pointer the current one."""
        position = self._token_at(event.position().toPoint())
        if position is not None:
            self.go_to(position)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Nothing more: the press did it."""
        event.accept()

    def viewportEvent(self, event: QEvent) -> bool:
        """Forget the pointer when it leaves."""
        if event.type() == QEvent.Type.Leave:
            self._hover(None)
        return super().viewportEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show where the keyboard is."""
        self.viewport().update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Show that the keyboard is elsewhere."""
        self.viewport().update()

    def _neighbour(self, event: QKeyEvent) -> int | None:
        assert self._current is not None
        line, page = self._layout.line_of(self._current), max(self.viewport().height() // self._line_height - 1, 1)
        whole = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        match event.key():
            case Qt.Key.Key_Left:
                return self._current - 1
            case Qt.Key.Key_Right:
                return self._current + 1
            case Qt.Key.Key_Up | Qt.Key.Key_Down | Qt.Key.Key_PageUp | Qt.Key.Key_PageDown:
                step = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1, Qt.Key.Key_PageUp: -page, Qt.Key.Key_PageDown: page}[Qt.Key(event.key())]
                wanted = min(max(line + step, 0), self._layout.lines - 1)
                return self._layout.nearest(wanted, self.area_of(self._current).center().x() - _MARGIN)
            case Qt.Key.Key_Home:
                return 0 if whole else self._layout.span(line).start
            case Qt.Key.Key_End:
                return len(self._tokens) - 1 if whole else self._layout.span(line).stop - 1
            case _:
                return None

    def _lay_out(self) -> None:
        self._layout = LensLayout(self._tokens, self.viewport().width() - 2 * _MARGIN, self._metrics.horizontalAdvance)
        self._go_on()

    def _go_on(self) -> None:
        """Place some more tokens, and come back for the rest."""
        self._layout.go_on(_AT_ONCE)
        self._set_range()
        if self._layout.complete:
            self._timer.stop()
        elif not self._timer.isActive():
            self._timer.start()
        if self._wanted is not None and self._wanted < self._layout.done:
            self._reveal(self._wanted)
            self._wanted = None
        self.viewport().update()

    def _set_range(self) -> None:
        bar, port = self.verticalScrollBar(), self.viewport().height()
        bar.setRange(0, max(self._layout.lines * self._line_height + 2 * _MARGIN - port, 0))
        bar.setPageStep(port)
        bar.setSingleStep(self._line_height)

    def _areas(self, line: int) -> Iterator[tuple[int, QRect]]:
        """Return the tokens of a line with where they stand in the viewport."""
        top = _MARGIN + line * self._line_height - self.verticalScrollBar().value()
        for position, left in zip(self._layout.span(line), self._layout.lefts(line)):
            yield position, QRect(_MARGIN + left, top, self._layout.width(position), self._line_height - _LEADING)

    def _lines_in(self, area: QRect) -> range:
        offset = self.verticalScrollBar().value() - _MARGIN
        first = max((area.top() + offset) // self._line_height, 0)
        return range(first, min((area.bottom() + offset) // self._line_height + 1, self._layout.lines))

    def _first_in_view(self) -> int:
        line = max(self.verticalScrollBar().value() - _MARGIN, 0) // self._line_height
        return self._layout.span(line).start if line < self._layout.lines else 0

    def _token_at(self, spot: QPoint) -> int | None:
        line = (spot.y() + self.verticalScrollBar().value() - _MARGIN) // self._line_height
        return self._layout.token_at(line, spot.x() - _MARGIN) if 0 <= line < self._layout.lines else None

    def _reveal(self, place: int) -> None:
        bar, top = self.verticalScrollBar(), self._layout.line_of(place) * self._line_height
        if top < bar.value():
            bar.setValue(top)
        elif top + self._line_height + 2 * _MARGIN > bar.value() + self.viewport().height():
            bar.setValue(top + self._line_height + 2 * _MARGIN - self.viewport().height())

    def _hover(self, place: int | None) -> None:
        if place != self._hovered:
            self._hovered = place
            self._tell()
            self.viewport().update()

    def _tell(self) -> None:
        position = self.pointed
        self.setAccessibleDescription("" if position is None else self._tokens.told(position))
        self.told.emit(position)

    def _paint_pointed(self, painter: QPainter) -> None:
        """Draw a frame around the token that is told of: a strong one where the keyboard is."""
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for position, width in ((self._current if self.hasFocus() else None, 2), (self._hovered, 1)):
            if position is not None and position < self._layout.done:
                painter.setPen(QPen(QColor(colors().accent), width))
                painter.drawRect(self.area_of(position).adjusted(-1, -1, 0, 0))

    def _take_font(self) -> None:
        self._font = mono_font(theme().scale)
        self._metrics = QFontMetrics(self._font)
        self._line_height = self._metrics.height() + 4 + _LEADING

    def _on_theme(self) -> None:
        self._take_font()
        self._lay_out()
