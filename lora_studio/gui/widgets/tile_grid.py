"""Figures side by side, in more rows where one lacks room."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QGridLayout, QWidget


class TileGrid(QGridLayout):
    """A grid of equal columns whose number may change."""

    def __init__(self, tiles: Sequence[QWidget]) -> None:
        """Take the tiles, all in one row at first."""
        super().__init__()
        self._tiles = tuple(tiles)
        self._shown = 0
        self.arrange(len(self._tiles))

    def arrange(self, columns: int) -> None:
        """Lay the tiles out in so many columns."""
        if columns == self._shown:
            return
        self._shown = columns
        for number, tile in enumerate(self._tiles):
            self.addWidget(tile, number // columns, number % columns)
        for column in range(len(self._tiles)):
            self.setColumnStretch(column, 1 if column < columns else 0)
