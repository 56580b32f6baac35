"""One window for each person and home: a second launch brings the first forward and hands it what to open."""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QDir, QObject, Signal

from lora_studio.core.paths import studio_paths

if TYPE_CHECKING:
    from PySide6.QtNetwork import QLocalSocket

_WAIT_MS = 1500


def instance_name() -> str:
    """Return the local socket's name: one for each person and settings folder."""
    person = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    return f"lora-studio-{person}-{zlib.crc32(str(studio_paths().settings).encode()):08x}"


def hand_over(target: str | None) -> bool:
    """Ask a window that is open already to come forward and open `target`; False where there is none."""
    name = instance_name()
    if sys.platform != "win32" and not (Path(QDir.tempPath()) / name).exists():
        return False  # spares a first launch the import of the network module
    from PySide6.QtNetwork import QLocalSocket

    connection = QLocalSocket()
    connection.connectToServer(name)
    if not connection.waitForConnected(_WAIT_MS):
        return False
    connection.write(json.dumps({"open": target}).encode() + b"\n")
    heard = connection.waitForReadyRead(_WAIT_MS)  # only a window that lives answers
    connection.disconnectFromServer()
    return heard


class InstanceServer(QObject):
    """Listens for second launches.

    Signals:
        asked: Another launch wants the window forward; carries what it was given to open, or None.
    """

    asked = Signal(object)

    def __init__(self, parent: QObject) -> None:
        from PySide6.QtNetwork import QLocalServer

        super().__init__(parent)
        self.setObjectName("instance_server")
        self._server = QLocalServer(self)
        self._server.setSocketOptions(QLocalServer.SocketOption.UserAccessOption)
        if not self._server.listen(instance_name()):
            QLocalServer.removeServer(instance_name())  # left over from a window that was killed
            self._server.listen(instance_name())
        self._server.newConnection.connect(self._on_connection)

    @property
    def listening(self) -> bool:
        """Whether second launches will find this window."""
        return self._server.isListening()

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _on_connection(self) -> None:
        while self._server.hasPendingConnections():
            connection = self._server.nextPendingConnection()
            connection.readyRead.connect(lambda waiting=connection: self._read(waiting))
            connection.disconnected.connect(connection.deleteLater)
            if connection.canReadLine():
                self._read(connection)

    def _read(self, connection: QLocalSocket) -> None:
        if not connection.canReadLine():
            return
        line = bytes(connection.readLine().data())
        connection.write(b"ok\n")
        connection.flush()
        try:
            target = json.loads(line).get("open")
        except (ValueError, AttributeError):
            target = None
        self.asked.emit(target if isinstance(target, str) else None)
