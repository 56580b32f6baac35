"""What the Train page shows before a run: three ways in, and what a start still lacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import Card, label

if TYPE_CHECKING:
    from lora_studio.gui.draft.readiness import ReadyItem
    from lora_studio.gui.draft.workspace import Workspace

_ROW_FILTER = "Rows (*.jsonl *.ndjson *.json *.csv *.tsv *.txt *.md)"
_NARROW = 560


class StartCards(QWidget):
    """Try the starter · Open my model · Open my data, and the readiness of the draft below them."""

    def __init__(self, workspace: Workspace, asker: FileDialogs) -> None:
        super().__init__()
        self.setObjectName("start_cards")
        self._workspace = workspace
        self._asker = asker
        self._ways = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._ways.setSpacing(10)
        self._build_ways()
        self._ready_card = Card(tr("Before the first step"), name="readiness_card")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        layout.addLayout(self._ways)
        layout.addWidget(self._ready_card)
        layout.addStretch(1)
        workspace.readiness.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show what a start needs now."""
        _clear(self._ready_card.body)
        items = self._workspace.readiness.items
        for item in items:
            self._ready_card.body.addWidget(self._ready_line(item))
        ready = bool(items) and all(item.ok for item in items)
        self._ready_card.set_note(tr("ready: press Start") if ready else tr("something is missing"))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Stack the three cards where they lack room side by side."""
        super().resizeEvent(event)
        narrow = event.size().width() < _NARROW
        self._ways.setDirection(QBoxLayout.Direction.TopToBottom if narrow else QBoxLayout.Direction.LeftToRight)

    def _build_ways(self) -> None:
        self._add_way(
            "starter",
            tr("Try the starter"),
            tr("A small chat model learns to answer support messages with JSON. About three minutes on two CPU cores."),
            tr("Open the starter"),
            self._workspace.draft.open_starter,
        )
        self._add_way(
            "model",
            tr("Open my model"),
            tr("A folder with config.json and safetensors, or a GGUF file. A Hub id can be typed into the base model card."),
            tr("Choose a folder…"),
            self._open_model,
        )
        self._add_way(
            "data",
            tr("Open my data"),
            tr("JSONL, JSON, CSV or text: chat messages, prompt and completion, instruction and output, or plain text."),
            tr("Choose files…"),
            self._open_data,
        )

    def _add_way(self, name: str, title: str, text: str, button_text: str, action: object) -> None:
        card = Card(title, name=f"{name}_card")
        card.body.addWidget(label(text, "note", f"{name}_text", wrap=True))
        card.body.addStretch(1)
        button = QPushButton(button_text)
        button.setObjectName(f"{name}_button")
        button.clicked.connect(action)
        card.body.addWidget(button, 0, Qt.AlignmentFlag.AlignLeft)
        self._ways.addWidget(card, 1)

    def _open_model(self) -> None:
        folder = self._asker.open_folder(self, tr("Base model"), Path.home())
        if folder is not None:
            self._workspace.draft.edit({"model.name_or_path": str(folder), "model.revision": None}, tr("Base model"))

    def _open_data(self) -> None:
        files = self._asker.open_files(self, tr("Data"), Path.home(), [_ROW_FILTER])
        if files:
            self._workspace.draft.edit({"data.train": tuple(map(str, files))}, tr("Data"))

    def _ready_line(self, item: ReadyItem) -> QWidget:
        """A name, and beside it what is there or missing, wrapped; a click on the name goes to the field."""
        row = QWidget()
        row.setObjectName(f"readiness_{item.name.replace(' ', '_')}")
        mark, role = ("✓", "ready_good") if item.ok else (("…", "ready_pending") if item.pending else ("✗", "ready_missing"))
        button = QPushButton(f"{mark}  {item.name}")
        button.setObjectName(f"{row.objectName()}_button")
        button.setProperty("role", role)
        button.clicked.connect(lambda _checked=False: self._workspace.draft.request_field(item.field))
        layout = QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(button, 0, Qt.AlignmentFlag.AlignTop)
        message = label(item.message, "note", f"{row.objectName()}_message", wrap=True)
        message.setContentsMargins(0, 3, 0, 0)
        layout.addWidget(message, 1)
        return row


def _clear(layout: QVBoxLayout) -> None:
    while (entry := layout.takeAt(0)) is not None:
        widget = entry.widget()
        if widget is not None:
            widget.deleteLater()
