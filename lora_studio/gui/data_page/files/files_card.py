"""The files of the draft: a line each, ways to add and remove them, and how far they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QAbstractItemView, QHBoxLayout, QHeaderView, QPushButton, QTableView, QWidget

from lora_studio.data.readers.files import Split
from lora_studio.gui.data_page.files.files_model import ENCODING, FILE, READ_AS, FilesModel
from lora_studio.gui.data_page.files.names import Chosen, hub_name, named_files, with_added, with_moved, with_removed
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_bytes, format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import Card, ElidedLabel, ErrorLabel, LineEdit, ProgressLine, label

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

ROW_FILTER = "Rows (*.jsonl *.ndjson *.json *.csv *.tsv *.parquet *.txt *.text *.md *.gz *.zst *.zstd)"
_MOST_LINES = 5  # of files, before the list scrolls by itself


class FilesCard(Card):
    """Names the draft's data, and says of each file what was found in it.

    Signals:
        columns_asked: A person wants to say which column is which key.
    """

    columns_asked = Signal()

    def __init__(self, workspace: Workspace, asker: FileDialogs) -> None:
        super().__init__(tr("Files"), name="files_card")
        self._workspace = workspace
        self._asker = asker
        self._build()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show what is named and what is known of it."""
        data, settings = self._workspace.data, self._workspace.draft.config.data
        self.model.show_files(named_files(settings, data.check), settings, tr("reading…") if data.reading else "–")
        self._table.setVisible(self.model.rowCount() > 0)
        self._empty.setVisible(self.model.rowCount() == 0)
        self._fit()
        self._columns.setEnabled(data.check is not None)
        self._show_note()
        self._show_progress()
        self._show_selection()

    def add(self, names: list[str], split: Split = "train") -> None:
        """Name more data, as one edit; what is wrong with it is said below."""
        changes = with_added(self._workspace.draft.config.data, names, split)
        errors = self._workspace.draft.edit(changes, tr("Add data")) if changes else {}
        self._error.set_error("; ".join(errors.values()) if changes else tr("It is named already."))

    def changeEvent(self, event: QEvent) -> None:
        """Be as high as the files need when the text size changes."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange and hasattr(self, "_table"):
            self._fit()

    @property
    def chosen(self) -> list[Chosen]:
        """The names of the selected lines."""
        rows = self._table.selectionModel().selectedRows()
        files = [self.model.file(index.row()) for index in rows]
        return list(dict.fromkeys((file.split, file.name) for file in files))

    def _build(self) -> None:
        self._add_files = self._button(tr("Add files…"), "add_files_button")
        self._add_folder = self._button(tr("Add folder…"), "add_folder_button")
        self._columns = self._button(tr("Columns…"), "columns_button")
        self._columns.setToolTip(tr("Say which column of the rows is which key of a format"))
        self._columns.clicked.connect(self.columns_asked)
        self.add_header_widget(self._columns)
        self.add_header_widget(self._add_files)
        self.add_header_widget(self._add_folder)
        self.model = FilesModel(self)
        self._table = self._build_table()
        self._empty = label(
            tr("Drop files or folders here, add them with the buttons, or name a data set of the Hub below."),
            "note",
            "files_empty",
            wrap=True,
        )
        self._error = ErrorLabel("files_error")
        for widget in (self._table, self._empty, self._build_progress()):
            self.body.addWidget(widget)
        self.body.addLayout(self._build_line())
        self.body.addWidget(self._error)

    def _build_table(self) -> QTableView:
        table = QTableView()
        table.setObjectName("files_table")
        table.setAccessibleName(tr("Files of the data"))
        table.setModel(self.model)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setTabKeyNavigation(False)
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        table.verticalHeader().hide()
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column in (FILE, READ_AS):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        return table

    def _build_progress(self) -> QWidget:
        self._progress = QWidget()
        self._progress.setObjectName("reading_progress")
        self._bar = ProgressLine("reading_bar")
        self._bar.setMinimumWidth(60)
        self._told = ElidedLabel("", "note", "reading_text")
        self._cancel = self._button(tr("Cancel"), "cancel_reading_button")
        line = QHBoxLayout(self._progress)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self._bar, 1)
        line.addWidget(self._told)
        line.addWidget(self._cancel)
        return self._progress

    def _build_line(self) -> QHBoxLayout:
        self._hub = LineEdit(name="hub_edit")
        self._hub.setPlaceholderText("hf://owner/name")
        self._hub.setAccessibleName(tr("Data set of the Hub"))
        self._hub.setToolTip(tr("A data set of the Hugging Face Hub, as hf://owner/name or owner/name. Enter adds it."))
        self._add_hub = self._button(tr("Add"), "add_hub_button")
        self._move = self._button(tr("Use for evaluation"), "move_files_button")
        self._remove = self._button(tr("Remove"), "remove_files_button")
        self._remove.setToolTip(tr("Take the selected lines out of the draft; the files stay where they are. Delete does the same."))
        line = QHBoxLayout()
        line.setSpacing(6)
        line.addWidget(self._hub, 1)
        for button in (self._add_hub, self._move, self._remove):
            line.addWidget(button)
        return line

    def _button(self, text: str, name: str) -> QPushButton:
        button = QPushButton(text)
        button.setObjectName(name)
        return button

    def _connect(self) -> None:
        self._add_files.clicked.connect(self._ask_files)
        self._add_folder.clicked.connect(self._ask_folder)
        self._add_hub.clicked.connect(self._on_hub)
        self._hub.returnPressed.connect(self._on_hub)
        self._hub.textChanged.connect(lambda text: self._add_hub.setEnabled(bool(hub_name(text))))
        self._add_hub.setEnabled(False)
        self._move.clicked.connect(self._on_move)
        self._remove.clicked.connect(self._on_remove)
        self._cancel.clicked.connect(self._workspace.data.cancel)
        self._workspace.data.progressed.connect(self._show_progress)
        self._table.selectionModel().selectionChanged.connect(lambda _new, _old: self._show_selection())
        delete = QShortcut(QKeySequence(QKeySequence.StandardKey.Delete), self._table, context=Qt.ShortcutContext.WidgetShortcut)
        delete.setObjectName("remove_files_shortcut")
        delete.activated.connect(self._on_remove)

    def _ask_files(self) -> None:
        files = self._asker.open_files(self, tr("Add files of rows"), self._here(), [ROW_FILTER, tr("All files (*)")])
        if files:
            self.add([str(file) for file in files])

    def _ask_folder(self) -> None:
        folder = self._asker.open_folder(self, tr("Add a folder of files"), self._here())
        if folder:
            self.add([str(folder)])

    def _here(self) -> Path:
        first = next((name for name in self._workspace.draft.config.data.train if Path(name).exists()), "")
        return Path(first).parent if first else Path.home()

    def _on_hub(self) -> None:
        name = hub_name(self._hub.text())
        if name:
            self.add([name])
            self._hub.clear()

    def _on_move(self) -> None:
        chosen = self.chosen
        if chosen:
            to_eval = chosen[0][0] == "train"
            text = tr("Use for evaluation") if to_eval else tr("Use for training")
            self._workspace.draft.edit(with_moved(self._workspace.draft.config.data, chosen, "eval" if to_eval else "train"), text)

    def _on_remove(self) -> None:
        if self.chosen:
            self._workspace.draft.edit(with_removed(self._workspace.draft.config.data, self.chosen), tr("Remove data"))

    def _show_selection(self) -> None:
        chosen = self.chosen
        for button in (self._move, self._remove):
            button.setEnabled(bool(chosen))
        trains = not chosen or chosen[0][0] == "train"
        self._move.setText(tr("Use for evaluation") if trains else tr("Use for training"))

    def _show_note(self) -> None:
        check = self._workspace.data.check
        text = tr("{rows} rows · {bad} bad", rows=format_count(check.rows), bad=format_count(check.bad_count)) if check else ""
        self.set_note(text or (tr("reading…") if self._workspace.data.reading else ""))

    def _show_progress(self) -> None:
        data = self._workspace.data
        self._progress.setVisible(data.checking)
        done, total = data.progress
        self._bar.set_fraction(done / total if total else None)
        self._told.setText(tr("{done} of {total}", done=format_bytes(done), total=format_bytes(total)) if total else tr("looking…"))

    def _fit(self) -> None:
        """Be as high as the files need, up to a few; then the list scrolls."""
        lines = min(self.model.rowCount(), _MOST_LINES)
        row = self._table.verticalHeader().defaultSectionSize()
        self._table.setFixedHeight(self._table.horizontalHeader().sizeHint().height() + lines * row + 2)
        narrow = self.width() < 46 * self.fontMetrics().horizontalAdvance("0")
        self._table.setColumnHidden(
            ENCODING,
            narrow and not any((file := self.model.file(row).file) is not None and file.encoding for row in range(self.model.rowCount())),
        )
