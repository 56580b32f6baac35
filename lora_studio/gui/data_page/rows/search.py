"""A search over all rows of the data, in slices of a few milliseconds, so that the window goes on."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.errors import InputError
from lora_studio.data.readers.row_index import RowIndex

_SLICE_SECONDS = 0.008


class RowSearch(QObject):
    """Finds the rows that hold a text: from one row on, then those before it.

    Signals:
        changed: More rows were found, or the search is over.
        arrived: The row that was waited for is found; carries its number.
    """

    changed = Signal()
    arrived = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.setObjectName("row_search")
        self._index: RowIndex | None = None
        self._steps: Iterator[int | None] | None = None
        self._wait_from: int | None = None
        self._timer = QTimer(self, interval=0)
        self._timer.timeout.connect(self._look)
        self.matches: list[int] = []
        self.error = ""

    @property
    def running(self) -> bool:
        """Whether rows are still looked through."""
        return self._timer.isActive()

    def begin(self, index: RowIndex | None, text: str, start: int = 0) -> None:
        """Search for a text; the first match from row `start` on is told by `arrived`."""
        self.stop()
        self.matches, self.error = [], ""
        self._index = index
        if index is not None and text:
            self._steps = _both_ways(index, text, start)
            self._wait_from = start - 1
            self._timer.start()
        self.changed.emit()

    def stop(self) -> None:
        """Look no further; what was found stays."""
        self._timer.stop()
        self._steps = None
        self._wait_from = None

    def next_after(self, row: int) -> None:
        """Tell of the next match behind a row by `arrived`, as soon as there is one; behind the last comes the first."""
        position = bisect_right(self.matches, row)
        if position < len(self.matches):
            self._arrive(self.matches[position])
        elif self.running:
            self._wait_from = row
        elif self.matches:
            self._arrive(self.matches[0])

    def previous_before(self, row: int) -> None:
        """Tell of the match before a row, among those found; before the first comes the last."""
        if self.matches:
            self._arrive(self.matches[bisect_left(self.matches, row) - 1])

    def _look(self) -> None:
        end = time.perf_counter() + _SLICE_SECONDS
        before = len(self.matches)
        while self._steps is not None and time.perf_counter() < end:
            self._step(self._steps)
        if len(self.matches) != before or not self.running:
            self.changed.emit()

    def _step(self, steps: Iterator[int | None]) -> None:
        try:
            number = next(steps)
        except StopIteration:
            self._end()
        except InputError as error:
            self.error = error.message
            self._end()
        else:
            if number is not None:
                insort(self.matches, number)
                if self._wait_from is not None and number > self._wait_from:
                    self._arrive(number)

    def _end(self) -> None:
        waited = self._wait_from is not None
        self.stop()
        if waited and self.matches:
            self._arrive(self.matches[0])

    def _arrive(self, number: int) -> None:
        self._wait_from = None
        self.arrived.emit(number)


def _both_ways(index: RowIndex, text: str, start: int) -> Iterator[int | None]:
    yield from index.search(text, start)
    if start:
        for number in index.search(text, 0):
            if number is not None and number >= start:
                return
            yield number
