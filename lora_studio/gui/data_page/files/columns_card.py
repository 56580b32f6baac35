"""Which column of the rows is which key of a format: chosen, dragged or suggested, with the rows as they would be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from PySide6.QtCore import QEvent, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QResizeEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPlainTextEdit, QPushButton, QSizePolicy

from lora_studio.data.readers.columns import suggest_columns
from lora_studio.gui.data_page.files.preview import RawRows, odd_file, raw_rows, read_rows
from lora_studio.gui.data_page.files.raw_table import COLUMN_MIME, RawTable
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import Card, ComboBox, ElidedLabel, label, set_role

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

OUR_KEYS = ("prompt", "completion", "system", "messages", "text", "tools", "instruction", "input", "output", "chosen", "rejected", "label")
_LETTERS_A_KEY = 27  # of the narrowest column of key and combo box
_PREVIEW_LINES = 7


class KeyCombo(ComboBox):
    """The column that is one of our keys; a column dragged from the table above can be dropped on it.

    Signals:
        chosen: A person chose a column; carries its name, empty for none.
    """

    chosen = Signal(str)

    def __init__(self, key: str) -> None:
        super().__init__(f"column_{key}", characters=8)
        self.setAccessibleName(tr("Column that is {key}", key=key))
        self.setAcceptDrops(True)
        self.activated.connect(lambda index: self.chosen.emit(self.itemData(index)))

    def show_columns(self, columns: tuple[str, ...], current: str) -> None:
        """Offer these columns; `current` is shown even where the rows lack it."""
        names = columns if not current or current in columns else (*columns, current)
        self.blockSignals(True)
        self.clear()
        self.addItem("–", "")
        for name in names:
            self.addItem(name, name)
        self.setCurrentIndex(max(self.findData(current), 0))
        self.blockSignals(False)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take a column."""
        if event.mimeData().hasFormat(COLUMN_MIME):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Choose the column that was dropped."""
        event.acceptProposedAction()
        self.chosen.emit(bytes(event.mimeData().data(COLUMN_MIME).data()).decode())


class ColumnsCard(Card):
    """Edits `data.columns`."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(tr("Columns"), name="columns_card")
        self._workspace = workspace
        self._raw = RawRows()
        self._columns = 0
        self._seen: object = None
        self.asked_for = False
        self._build()
        self.refresh()

    @property
    def needed(self) -> bool:
        """Whether no row of some file says how it is read, or a mapping is set."""
        check = self._workspace.data.check
        unknown = check is not None and any(not file.format and file.bad_rows for file in check.files)
        return bool(self._workspace.draft.config.data.columns) or unknown

    def refresh(self) -> None:
        """Show the columns of the file that wants a look, where this card is wanted at all."""
        self.setVisible(self.needed or self.asked_for)
        check, settings = self._workspace.data.check, self._workspace.draft.config.data
        seen = (check, settings.columns, settings.format, settings.encoding)
        if not (self.needed or self.asked_for) or check is None or seen == self._seen:
            return
        self._seen = seen
        file = odd_file(check)
        self._raw = raw_rows(file, settings) if file else RawRows()
        self.table.raw.show_rows(self._raw)
        for key, combo in self.combos.items():
            combo.show_columns(self._raw.keys, settings.columns.get(key, ""))
        self._show_suggestion(settings.columns)
        self._clear.setEnabled(bool(settings.columns))
        text, bad = read_rows(file, settings) if file else ("", 0)
        self._preview.setPlainText(text)
        self._verdict.setText(tr("{bad} of the first rows cannot be read so", bad=bad) if bad else tr("the first rows read so"))
        set_role(self._verdict, "warning" if bad else "good")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put as many keys side by side as have room."""
        super().resizeEvent(event)
        self._arrange()

    def changeEvent(self, event: QEvent) -> None:
        """Make room for larger text."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange and hasattr(self, "table"):
            self.table.fit()
            self._fit()
            self._arrange()

    def _build(self) -> None:
        self._clear = QPushButton(tr("Clear"))
        self._clear.setObjectName("clear_columns_button")
        self._clear.setToolTip(tr("Read the rows by their own keys again"))
        self._clear.clicked.connect(lambda: self._set({}))
        self.add_header_widget(self._clear)
        self.set_note(tr("which column is which key: choose, or drag a title onto a key"))
        self.table = RawTable()
        self.body.addWidget(self.table)
        self.body.addLayout(self._build_suggestion())
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self.body.addLayout(self._grid)
        self.combos = {key: KeyCombo(key) for key in OUR_KEYS}
        self._titles: dict[str, QLabel] = {}
        for key, combo in self.combos.items():
            self._titles[key] = label(key, name=f"column_title_{key}")
            self._titles[key].setBuddy(combo)
            combo.chosen.connect(lambda name, key=key: self._choose(key, name))
        self._arrange()
        self._verdict = ElidedLabel("", "good", "columns_verdict")
        self._preview = QPlainTextEdit()
        self._preview.setObjectName("columns_preview")
        self._preview.setAccessibleName(tr("The first rows as they would be read"))
        self._preview.setProperty("role", "mono")
        self._preview.setReadOnly(True)
        self._preview.setTabChangesFocus(True)
        self.body.addWidget(self._verdict)
        self.body.addWidget(self._preview)
        self._fit()

    def _build_suggestion(self) -> QHBoxLayout:
        self._suggestion = ElidedLabel("", "note", "columns_suggestion")
        self._suggestion.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._use = QPushButton(tr("Use this"))
        self._use.setObjectName("use_suggestion_button")
        self._use.clicked.connect(lambda: self._set(suggest_columns(self._raw.keys)))
        line = QHBoxLayout()
        line.addWidget(self._suggestion, 1)
        line.addWidget(self._use)
        return line

    def _show_suggestion(self, columns: Mapping[str, str]) -> None:
        suggested = suggest_columns(self._raw.keys)
        offered = bool(suggested) and suggested != dict(columns)
        pairs = ", ".join(f"{ours} = {theirs}" for ours, theirs in suggested.items())
        self._suggestion.setText(tr("Suggested: {pairs}", pairs=pairs))
        self._suggestion.setVisible(offered)
        self._use.setVisible(offered)

    def _choose(self, key: str, name: str) -> None:
        """Make a column one of our keys; no column is two of them."""
        kept = {ours: theirs for ours, theirs in self._workspace.draft.config.data.columns.items() if ours != key and theirs != name}
        wanted = {**kept, **({key: name} if name else {})}
        self._set({ours: wanted[ours] for ours in OUR_KEYS if ours in wanted})

    def _set(self, columns: Mapping[str, str]) -> None:
        self._workspace.draft.edit({"data.columns": dict(columns)}, tr("Map columns"))

    def _arrange(self) -> None:
        letters = max(self.width(), 1) // max(self.fontMetrics().horizontalAdvance("0"), 1)
        columns = min(max(letters // _LETTERS_A_KEY, 1), 3)
        if columns == self._columns:
            return
        self._columns = columns
        for number, (key, combo) in enumerate(self.combos.items()):
            self._grid.addWidget(self._titles[key], number // columns, 2 * (number % columns))
            self._grid.addWidget(combo, number // columns, 2 * (number % columns) + 1)
        for column in range(6):
            self._grid.setColumnStretch(column, 1 if column % 2 and column < 2 * columns else 0)

    def _fit(self) -> None:
        self._preview.setFixedHeight(self._preview.fontMetrics().lineSpacing() * _PREVIEW_LINES + 14)
