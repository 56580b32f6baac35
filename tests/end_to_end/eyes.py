"""Lets a driver in another process see the program's widgets, as a person at the screen does, and photograph them.

`python -m tests.end_to_end.eyes [ARGUMENTS]` is `python -m lora_studio [ARGUMENTS]` with a listener on the loopback address,
whose port is the first line on standard output. It answers questions only: what a person does comes in as events of mouse and
keyboard, from `xdotool` under X, or, where there is no X server to send them, from Qt's own test events, handed to the window
as the window system hands them on: by position, so that what is covered cannot be pressed.
"""

from __future__ import annotations

import faulthandler
import json
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.patience import waiting

Answer = dict[str, Any]
_WAIT_FOR_QT_SECONDS = 60.0
_LOOK_AGAIN_MS = 20


class Listener:
    """Takes one driver, asks the window's thread for it, and is joined before the program ends."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="eyes", daemon=True)
        self._done = threading.Event()

    def start(self) -> None:
        sys.stdout.write(f"{self._server.getsockname()[1]}\n")
        sys.stdout.flush()
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._server.close()
        self._thread.join(5)

    def _serve(self) -> None:
        try:
            self._server.settimeout(_WAIT_FOR_QT_SECONDS)
            driver, _address = self._server.accept()
        except OSError:
            return
        ask = self._meet_the_window()
        driver.settimeout(0.2)
        with driver:
            waiting = b""
            while not self._done.is_set():
                try:
                    piece = driver.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not piece:
                    return
                *lines, waiting = (waiting + piece).split(b"\n")
                for line in lines:
                    driver.sendall(json.dumps(ask(json.loads(line))).encode() + b"\n")

    def _meet_the_window(self) -> Callable[[Answer], Answer]:
        """Give what asks in the window's thread, once there is an application.

        Nothing of the window is touched or imported here: two threads that import the same modules can be handed half-made ones, and a
        widget that another thread looks at while it is made is known as something else for good.
        """
        end = time.monotonic() + _WAIT_FOR_QT_SECONDS * waiting()
        while (application := _application()) is None and time.monotonic() < end:
            time.sleep(0.02)
        assert application is not None, "there is no application"
        from PySide6.QtCore import QObject, Qt, QTimer, Signal

        class Messenger(QObject):
            asked = Signal(object)

        messenger, answers = Messenger(), queue.SimpleQueue[Answer]()
        doing: list[Answer] = []
        messenger.moveToThread(application.thread())

        def look(question: Answer) -> None:
            from tests.end_to_end.seeing import SEES, is_open

            if not is_open():
                QTimer.singleShot(_LOOK_AGAIN_MS, lambda: look(question))
                return
            try:
                found = SEES[question["see"]](*question["of"]) if question["see"] != "idle" else not doing or SEES["questions"]()
            except Exception:
                answers.put({"failed": traceback.format_exc()})
                return
            if not callable(found):
                answers.put({"seen": found})
                return
            answers.put({"seen": None})  # before the deed, which may open a question and not come back until it is answered
            doing.append(question)
            try:
                found()
            finally:
                doing.pop()

        class Looker(QObject):
            def look(self, question: object) -> None:
                assert isinstance(question, dict)
                look(question)

        looker = Looker()
        looker.moveToThread(application.thread())
        messenger.asked.connect(looker.look, Qt.ConnectionType.QueuedConnection)
        self._kept = (messenger, looker)

        def ask(question: Answer) -> Answer:
            messenger.asked.emit(question)
            while not self._done.is_set():
                try:
                    return answers.get(timeout=0.2)
                except queue.Empty:
                    continue
            return {"ended": True}

        return ask


def _application() -> Any:
    """Give the application, once the window's thread has made it."""
    qt = sys.modules.get("PySide6.QtWidgets")
    return qt.QApplication.instance() if qt is not None and hasattr(qt, "QApplication") else None


def main() -> int:
    """Run the program, seen; SIGUSR2 has it write down where each thread stands."""
    from lora_studio.__main__ import main as program

    if hasattr(signal, "SIGUSR2"):
        faulthandler.register(signal.SIGUSR2, all_threads=True)
    listener = Listener()
    listener.start()
    try:
        return program()
    finally:
        listener.close()


if __name__ == "__main__":
    raise SystemExit(main())
