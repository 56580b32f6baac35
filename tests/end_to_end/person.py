"""A person at the program: starts it in a process of its own, looks, waits for what is to be seen, presses and types."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from tests.patience import Patience

ROOT = Path(__file__).resolve().parents[2]
HOME_VARIABLE = "LORA_STUDIO_HOME"
_ANSWER_SECONDS = 120.0
_LOOK_AGAIN_SECONDS = 0.1
_STACKS = 20_000
_TRIES = 5

Seen = dict[str, Any]


class Hands(Protocol):
    """Presses and types on the screen."""

    def click_on(self, what: str, *of: object, part: str = "box") -> None: ...

    def click(self, x: int, y: int, times: int = 1) -> None: ...

    def press(self, keys: str) -> None: ...

    def write(self, text: str) -> None: ...


class EndedError(AssertionError):
    """The program has ended."""


def middle(box: Sequence[int]) -> tuple[int, int]:
    """Return the middle of a box of left, top, width and height."""
    left, top, width, height = box
    return left + width // 2, top + height // 2


class Program:
    """The program under way, in a process of its own with a home of its own."""

    def __init__(self, home: Path, arguments: Sequence[str] = (), **environment: str) -> None:
        self.log = home / "program.log"
        home.mkdir(parents=True, exist_ok=True)
        settings = {**os.environ, HOME_VARIABLE: str(home), "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **environment}
        self._errors: IO[bytes] = self.log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.eyes", *arguments], cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=self._errors
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            raise AssertionError(f"the program did not start:\n{self.errors}")
        self._wire = socket.create_connection(("127.0.0.1", int(port)), timeout=_ANSWER_SECONDS)
        self._answers = self._wire.makefile("rb")

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def see(self, what: str, *of: object) -> Any:
        """Ask its eyes.

        Raises:
            AssertionError: There is nothing to be seen so.
            EndedError: The program has ended.
        """
        self._wire.sendall(json.dumps({"see": what, "of": of}).encode() + b"\n")
        try:
            line = self._answers.readline()
        except TimeoutError as error:
            stands = f"where the program stands:\n{self.stacks()}"
            raise AssertionError(f"no answer to {what}{of} within {_ANSWER_SECONDS:.0f} s; {stands}") from error
        answer = json.loads(line) if line else {"ended": True}
        if "ended" in answer:
            raise EndedError(f"the program has ended ({self._process.poll()}):\n{self.errors[-3000:]}")
        if "failed" in answer:
            raise AssertionError(f"{what}{of}: {answer['failed']}")
        return answer["seen"]

    def stacks(self) -> str:
        """Have it write down where each of its threads stands; give that."""
        if not self.alive or not hasattr(signal, "SIGUSR2"):
            return self.errors[-_STACKS:]
        before = len(self.errors)
        os.kill(self._process.pid, signal.SIGUSR2)  # faulthandler's, which needs no interpreter
        time.sleep(1)
        return self.errors[before:][-_STACKS:]

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait_for_end(self, seconds: float = 120.0) -> int:
        """Wait until it has ended by itself; give its exit status."""
        self._wire.close()
        try:
            return self._process.wait(seconds)
        finally:
            self.end()

    def end(self) -> None:
        """End it where it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._wire.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


class QtHands:
    """Hands where there is no X server: Qt's own events, given to the window by position."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def click_on(self, what: str, *of: object, part: str = "box") -> None:
        self._do("press_on", what, list(of), part)

    def click(self, x: int, y: int, times: int = 1) -> None:
        self._do("mouse", x, y, times)

    def press(self, keys: str) -> None:
        self._do("keys", keys)

    def write(self, text: str) -> None:
        self._do("letters", text)

    def _do(self, deed: str, *of: object) -> None:
        """Begin a deed, and wait until it is done or waits for an answer itself."""
        self._program.see(deed, *of)
        with contextlib.suppress(EndedError):  # that may be what was asked for
            while not self._program.see("idle"):
                time.sleep(0.01)


class XHands:
    """Hands on an X server: `xdotool` moves the pointer and presses keys; the focus, which a window manager would give, is given first."""

    def __init__(self, program: Program, display: str) -> None:
        self._program = program
        self._environment = {**os.environ, "DISPLAY": display}
        if shutil.which("xdotool") is None:
            raise AssertionError("xdotool is not installed: apt-get install xdotool")

    def click_on(self, what: str, *of: object, part: str = "box") -> None:
        """Point at it, look whether it is still there, and press."""
        for _ in range(_TRIES):
            box = self._program.see(what, *of)[part]
            x, y = middle(box)
            self._do("mousemove", str(x), str(y))
            if self._program.see(what, *of)[part] == box:
                break
        self._do("click", "1")

    def click(self, x: int, y: int, times: int = 1) -> None:
        self._do("mousemove", str(x), str(y), "click", "--repeat", str(times), "--delay", "60", "1")

    def press(self, keys: str) -> None:
        self._focus()
        self._do("key", "--delay", "20", keys)

    def write(self, text: str) -> None:
        self._focus()
        self._do("type", "--delay", "30", text)

    def _focus(self) -> None:
        self._do("windowfocus", str(self._program.see("program")["window"]))

    def _do(self, *arguments: str) -> None:
        subprocess.run(["xdotool", *arguments], check=True, timeout=60, capture_output=True, env=self._environment)


class Person:
    """Looks at the program and acts on it; waits for what is to be seen, never for a time.

    Args:
        program: The program under way.
        hands: What presses.
        patience: A factor on every wait; a busy machine lengthens it by itself.
    """

    def __init__(self, program: Program, hands: Hands, patience: float = 1.0) -> None:
        self.program = program
        self.hands = hands
        self._patience = patience

    def look(self, name: str) -> Seen | None:
        """Look for a widget; None where it is not to be seen."""
        return self.program.see("look", name)

    def text(self, name: str) -> str:
        """Read a widget; empty where it is not to be seen."""
        found = self.look(name)
        return str(found["text"]) if found else ""

    def wait(self, what: str, condition: Callable[[], object], seconds: float = 30.0) -> Any:
        """Wait until a condition holds, and give what it gave.

        Raises:
            AssertionError: It did not come to hold in time.
        """
        patience = Patience(seconds * self._patience)
        began = time.monotonic()
        while True:
            found = condition()
            if found:
                return found
            if patience.is_over():
                raise AssertionError(
                    f"waited {time.monotonic() - began:.0f} s for: {what}\nto be seen: {self._told()}\n"
                    f"where the program stands:\n{self.program.stacks()}"
                )
            time.sleep(_LOOK_AGAIN_SECONDS)

    def wait_for(self, name: str, seconds: float = 30.0) -> Seen:
        """Wait until a widget is to be seen and can be used."""
        return self.wait(f"{name} to be there", lambda: self._usable(name), seconds)

    def wait_for_text(self, name: str, part: str, seconds: float = 30.0) -> str:
        """Wait until a widget's text has this part; give all of its text."""
        return self.wait(f"{part!r} in {name}", lambda: part in (told := self.text(name)) and (told or True), seconds)

    def wait_until_still(self, name: str, looks: int = 15) -> None:
        """Wait until a widget has said the same for so many looks, a tenth of a second apart."""
        seen: list[str] = []

        def still() -> bool:
            seen.append(self.text(name))
            return len(seen) >= looks and len(set(seen[-looks:])) == 1

        self.wait(f"{name} to stand still", still)

    def click(self, name: str, seconds: float = 30.0) -> None:
        """Press a widget in its middle, once it can be pressed."""
        self.wait_for(name, seconds)
        self.hands.click_on("look", name)

    def click_button(self, window: str, text: str) -> None:
        """Press a button of a question by what it says."""
        self.wait(f"a button {text!r} in {window}", lambda: self.program.see("button", window, text))
        self.hands.click_on("button", window, text)

    def row(self, tree: str, *path: str) -> Seen:
        """Find a row of a tree by the texts on the way to it."""
        return self.wait(f"row {'/'.join(path)} of {tree}", lambda: self.program.see("row", tree, list(path)))

    def tick(self, tree: str, *path: str) -> None:
        """Press the check box of a tree's row."""
        self.row(tree, *path)
        self.hands.click_on("row", tree, list(path), part="tick")

    def type_into(self, name: str, text: str) -> None:
        """Put another text into a field, and leave it with Return."""
        self.click(name)
        self.hands.press("ctrl+a")
        self.hands.write(text)
        self.hands.press("Return")

    def click_cell(self, name: str, row: int, column: int = 0) -> str:
        """Press a cell of a list or table; give what stands in it."""
        found = self.wait(f"row {row} of {name}", lambda: self.program.see("cell", name, row, column))
        self.hands.click_on("cell", name, row, column)
        return str(found["text"])

    def press(self, keys: str) -> None:
        """Press keys, such as ctrl+z."""
        self.hands.press(keys)

    def _usable(self, name: str) -> Seen | None:
        found = self.look(name)
        return found if found and found["enabled"] else None

    def _told(self) -> dict[str, str]:
        names = ("run_state", "run_doing", "run_banner_text", "ready_line", "toast_text", "export_phase", "export_verdict_text")
        return {name: told for name in names if (told := self.text(name))}
