"""The rows that cannot be used: a list that can be walked, copied and exported, and what a run makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, Qt, Signal
from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import QAbstractItemView, QListView, QPushButton, QVBoxLayout, QWidget

from lora_studio.core.errors import InputError
from lora_studio.data.bad_rows import write_bad_rows
from lora_studio.data.check import DataCheck
from lora_studio.data.rows.row import BadRow
from lora_studio.gui.data_page.row_models import BadRowsModel
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import FlowLayout, Pills, label

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace


class BadList(QListView):
    """The list itself; what it copies is the place of a row.

    Signals:
        copy_asked: The keys for copying were pressed.
    """

    copy_asked = Signal()

    def __init__(self, model: BadRowsModel) -> None:
        super().__init__()
        self.setObjectName("bad_rows_list")
        self.setAccessibleName(tr("Bad rows"))
        self.setModel(model)
        self.setUniformItemSizes(True)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Ctrl+C copies the place."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy_asked.emit()
        else:
            super().keyPressEvent(event)


class BadRowsView(QWidget):
    """Lists bad rows, over any number of them.

    Signals:
        selected: A row was selected; carries the `BadRow`.
    """

    selected = Signal(object)

    def __init__(self, workspace: Workspace, asker: FileDialogs) -> None:
        super().__init__()
        self.setObjectName("bad_rows")
        self._workspace = workspace
        self._asker = asker
        self.model = BadRowsModel(self)
        self._build()
        self._connect()
        self._show_choice()

    def show_check(self, check: DataCheck | None) -> None:
        """List the bad rows of a check."""
        rows = check.bad_rows if check else ()
        self.model.set_rows(rows)
        beyond = check.bad_count - len(rows) if check else 0
        self._beyond.setText(tr("and {count} more, which are counted but not kept", count=format_count(beyond)))
        self._beyond.setVisible(beyond > 0)
        self._export.setEnabled(bool(rows))
        self._show_selection()

    @property
    def current(self) -> BadRow | None:
        """The selected row."""
        index = self.list.currentIndex()
        return index.data(Qt.ItemDataRole.UserRole) if index.isValid() else None

    def _build(self) -> None:
        self.list = BadList(self.model)
        self._beyond = label("", "note", "bad_rows_beyond", wrap=True)
        self._copy = QPushButton(tr("Copy place"))
        self._copy.setObjectName("copy_place_button")
        self._copy.setToolTip(tr("Copy file and line of the selected row. Ctrl+C does the same."))
        self._export = QPushButton(tr("Export…"))
        self._export.setObjectName("export_bad_rows_button")
        for button in (self._copy, self._export):
            button.setProperty("role", "pill")  # as high as the switch beside them
        self._choice = Pills([("stop", tr("Stop at bad rows")), ("skip", tr("Leave them out"))], name="on_bad_rows_switch")
        tools = QWidget()
        tools.setObjectName("bad_rows_tools")
        line = FlowLayout(tools)
        for widget in (self._copy, self._export, self._choice):
            line.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.list, 1)
        layout.addWidget(self._beyond)
        layout.addWidget(tools)

    def _connect(self) -> None:
        self.list.selectionModel().currentChanged.connect(self._on_current)
        self._copy.clicked.connect(self.copy_place)
        self._export.clicked.connect(self.export)
        self._choice.selected.connect(lambda choice: self._workspace.draft.edit({"data.on_bad_rows": choice}, tr("Bad rows")))
        self._workspace.draft.config_changed.connect(self._show_choice)
        self.list.copy_asked.connect(self.copy_place)

    def copy_place(self) -> None:
        """Put file and line of the selected row on the clipboard."""
        if (row := self.current) is not None:
            QGuiApplication.clipboard().setText(f"{row.file}:{row.line}")

    def export(self) -> None:
        """Write the rows that are kept to a file the person names."""
        check = self._workspace.data.judged
        if check is None:
            return
        first = Path(check.bad_rows[0].file)
        here = first.parent if first.parent.is_dir() else Path.home()
        path = self._asker.save_file(self, tr("Export bad rows"), here / f"{first.stem}-bad-rows.csv", ["CSV (*.csv)"])
        if path is None:
            return
        try:
            write_bad_rows(path, check.bad_rows)
        except (InputError, OSError) as error:
            self._workspace.draft.tell("error", str(error))
            return
        count = format_count(len(check.bad_rows))
        self._workspace.draft.tell("good", tr("{count} bad rows written to {name}.", count=count, name=path.name))

    def _on_current(self, index: QModelIndex, _previous: QModelIndex) -> None:
        self._show_selection()
        if index.isValid():
            self.selected.emit(index.data(Qt.ItemDataRole.UserRole))

    def _show_selection(self) -> None:
        self._copy.setEnabled(self.current is not None)

    def _show_choice(self) -> None:
        self._choice.set_current(self._workspace.draft.config.data.on_bad_rows)
