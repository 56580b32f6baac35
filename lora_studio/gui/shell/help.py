"""The Help menu: notifications, shortcuts, diagnostics, about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication, QKeySequence
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QHeaderView, QListView, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from lora_studio import __version__
from lora_studio.gui.platform.text import tr
from lora_studio.gui.shell.crash_dialog import diagnostics
from lora_studio.gui.theme.icons import icons_folder
from lora_studio.gui.widgets import label

if TYPE_CHECKING:
    from lora_studio.gui.engine.notifications import Notifications
    from lora_studio.gui.shell.actions import Actions
    from lora_studio.gui.shell.main_window import MainWindow


def attach_help(window: MainWindow, notifications: Notifications) -> None:
    """Attach the Help menu's actions, and the jobs button of the status bar."""
    on = window.actions_.on
    on("notifications", lambda: notifications_dialog(notifications, window).show())
    on("shortcuts", lambda: shortcuts_dialog(window.actions_, window).show())
    on("diagnostics", lambda: copy_diagnostics(window))
    on("about", lambda: about_dialog(window).show())
    window.status.jobs_pressed.connect(lambda: notifications_dialog(notifications, window).show())


def copy_diagnostics(window: MainWindow) -> None:
    """Copy what a bug report needs; no token is in it."""
    QGuiApplication.clipboard().setText(diagnostics())
    window.toasts.show("good", tr("Diagnostics copied: versions and system, no token and no data."))


def notifications_dialog(notifications: Notifications, parent: QWidget) -> QDialog:
    """Make the list of what happened."""
    dialog = _dialog(tr("Notifications"), "notifications_dialog", parent)
    view = QListView()
    view.setObjectName("notifications_list")
    view.setAccessibleName(tr("Notifications"))
    view.setModel(notifications)
    view.setWordWrap(True)
    layout = dialog.layout()
    assert isinstance(layout, QVBoxLayout)
    if not notifications.rowCount():
        layout.insertWidget(0, label(tr("Nothing has happened yet."), "note", wrap=True))
    layout.insertWidget(1, view, 1)
    return dialog


def shortcuts_dialog(actions: Actions, parent: QWidget) -> QDialog:
    """Make the table of keys."""
    dialog = _dialog(tr("Keyboard shortcuts"), "shortcuts_dialog", parent)
    specs = [spec for spec in actions.specs if spec.shortcut]
    table = QTableWidget(len(specs), 2)
    table.setObjectName("shortcuts_table")
    table.setHorizontalHeaderLabels([tr("Command"), tr("Keys")])
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.verticalHeader().hide()
    table.setShowGrid(False)
    table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    for row, spec in enumerate(specs):
        table.setItem(row, 0, QTableWidgetItem(actions[spec.id].text()))
        table.setItem(row, 1, QTableWidgetItem(actions[spec.id].shortcut().toString(QKeySequence.SequenceFormat.NativeText)))
    layout = dialog.layout()
    assert isinstance(layout, QVBoxLayout)
    layout.insertWidget(0, table, 1)
    return dialog


def about_dialog(parent: QWidget) -> QDialog:
    """Make the box that names program, version and licences."""
    dialog = _dialog(tr("About LoRA Studio"), "about_dialog", parent)
    layout = dialog.layout()
    assert isinstance(layout, QVBoxLayout)
    licences = "Apache License 2.0. Fonts: Inter and JetBrains Mono, SIL Open Font License 1.1 ({folder})."
    texts = (
        (f"LoRA Studio {__version__}", "heading"),
        (tr("A workbench for low-rank adaptation of language models."), ""),
        (tr(licences, folder=icons_folder().parent / "fonts"), "note"),
    )
    for position, (text, role) in enumerate(texts):
        line = label(text, role, f"about_{position}", wrap=True)
        line.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout.insertWidget(position, line)
    dialog.resize(420, 180)
    return dialog


def _dialog(title: str, name: str, parent: QWidget) -> QDialog:
    dialog = QDialog(parent)
    dialog.setObjectName(name)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setWindowTitle(title)
    dialog.resize(520, 420)
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    buttons.rejected.connect(dialog.reject)
    layout = QVBoxLayout(dialog)
    layout.addWidget(buttons)
    return dialog
