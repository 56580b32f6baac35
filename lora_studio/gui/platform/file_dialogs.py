"""Asking a person, behind one small object: off-screen, where a dialog would wait for ever, another takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

CONFIG_FILTER = "Configs (*.yaml *.yml)"


class FileDialogs:
    """Asks with the system's own dialogs; every answer is None when the person cancels."""

    def open_file(self, parent: QWidget | None, title: str, start: Path, filters: Sequence[str] = ()) -> Path | None:
        """Ask for a file that exists; `filters` are Qt's, such as "Rows (*.jsonl *.csv)"."""
        chosen, _filter = QFileDialog.getOpenFileName(parent, title, str(start), ";;".join(filters))
        return Path(chosen) if chosen else None

    def open_files(self, parent: QWidget | None, title: str, start: Path, filters: Sequence[str] = ()) -> list[Path] | None:
        """Ask for one or more files that exist."""
        chosen, _filter = QFileDialog.getOpenFileNames(parent, title, str(start), ";;".join(filters))
        return [Path(entry) for entry in chosen] or None

    def open_folder(self, parent: QWidget | None, title: str, start: Path) -> Path | None:
        """Ask for a folder that exists, or is made in the dialog."""
        chosen = QFileDialog.getExistingDirectory(parent, title, str(start))
        return Path(chosen) if chosen else None

    def save_file(self, parent: QWidget | None, title: str, suggestion: Path, filters: Sequence[str] = ()) -> Path | None:
        """Ask for the name of a file to write; the dialog itself asks before one is replaced."""
        chosen, _filter = QFileDialog.getSaveFileName(parent, title, str(suggestion), ";;".join(filters))
        return Path(chosen) if chosen else None

    def confirm(self, parent: QWidget | None, title: str, text: str, yes: str) -> bool:
        """Ask before something would be lost; `yes` names the deed on its button, Cancel is the default."""
        box = QMessageBox(QMessageBox.Icon.Question, title, text, QMessageBox.StandardButton.Cancel, parent)
        box.setObjectName("confirm_box")
        accept = box.addButton(yes, QMessageBox.ButtonRole.DestructiveRole)
        box.setDefaultButton(QMessageBox.StandardButton.Cancel)
        box.exec()
        return box.clickedButton() is accept

    def show_folder(self, folder: Path) -> bool:
        """Open a folder in the system's file manager; False where there is none."""
        return QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
