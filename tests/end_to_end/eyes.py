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
import traceback
from collections.abc import Callable
from typing import Any

from lora_studio.core.waits import waiting

Answer = dict[str, Any]
_WAIT_FOR_QT_SECONDS = 60.0


class Listener:
    """Takes one driver, asks the window's thread for it, and is joined before the program ends."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="eyes", daemon=True)
        self._done = threading.Event()
        self._met = threading.Event()
        self._ask: Callable[[Answer], Answer] = lambda _question: {"ended": True}

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
        self._met.wait(_WAIT_FOR_QT_SECONDS * waiting())
        driver.settimeout(0.2)
        with driver:
            rest = b""
            while not self._done.is_set():
                try:
                    piece = driver.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not piece:
                    return
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    driver.sendall(json.dumps(self._ask(json.loads(line))).encode() + b"\n")

    def meet(self, opened: Any) -> Any:
        """Take in the window, in its own thread; give it back.

        The thread that listens imports and touches nothing of it: two threads that import the same modules can be handed half-made
        ones, and so can one that looks at an application while another makes it.
        """
        from PySide6.QtCore import QObject, Qt, Signal

        from tests.end_to_end.seeing import SEES

        class Messenger(QObject):
            asked = Signal(object)

        messenger, answers = Messenger(), queue.SimpleQueue[Answer]()
        doing: list[Answer] = []

        def look(question: Answer) -> None:
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

        self._ask = ask
        self._met.set()
        return opened


def main() -> int:
    """Run the program, seen; SIGUSR2 has it write down where each thread stands."""
    from lora_studio.__main__ import main as program
    from lora_studio.gui import app

    if hasattr(signal, "SIGUSR2"):
        faulthandler.register(signal.SIGUSR2, all_threads=True)
    listener = Listener()
    listener.start()
    open_window = app.open_window
    app.open_window = lambda target=None: listener.meet(open_window(target))
    try:
        return program()
    finally:
        listener.close()


if __name__ == "__main__":
    raise SystemExit(main())
