"""Checks in processes of their own, each with a limit on its time: what one finds is passed on as it comes.

A check is a generator function `check(setting) -> Iterator[Row]`, named by a dotted path so that it is imported in its own process alone.
One that raises, ends the process or does not end costs its own time and no more, and the rows it had found until then are kept. Where the
platform has it, processes are forked from one that has imported torch, transformers and peft and has never touched the device: a check
then starts in a tenth of a second instead of six.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Literal, cast

Figure = float | int | str | bool
State = Literal["passed", "failed", "broke", "hung", "left out", "no time left"]

_PRELOADED = ["benchmarks.gpu.preloaded"]
_DUMP_BEFORE_S = 1.0
"""Where a check stands is written down this long before its time is up."""
_UNWIND_S = 5.0
_LAST_LINES = 40
_SHORTEST_S = 5.0


@dataclass(frozen=True)
class Setting:
    """Where a check runs.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: Whether sizes are those that try the check itself out.
        folder: For files; all checks of a call share it.
        seconds: The check's limit.
    """

    device: str
    tiny: bool
    folder: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """One thing found.

    Attributes:
        what: What was looked at.
        figures: What was measured.
        passed: Whether it is as it should be; None for figures that have no bound.
        note: What a reader should know beside them.
    """

    what: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    passed: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Check:
    """Something to find out on a device.

    Attributes:
        name: What `--only` calls it.
        title: What it finds out.
        function: Dotted path of its generator function, as `module:function`.
        limit: Seconds it may take.
        needs: Packages without which it is left out.
        cuda_only: Why it is left out on a processor; empty where it runs there too.
    """

    name: str
    title: str
    function: str
    limit: float
    needs: tuple[str, ...] = ()
    cuda_only: str = ""


@dataclass
class Result:
    """What came of a check.

    Attributes:
        check: Which.
        state: `passed` and `failed` go by its rows; `broke` raised or ended its process, `hung` reached its limit.
        seconds: It took.
        rows: It found.
        said: The traceback, what was printed last, or why it was left out.
    """

    check: Check
    state: State
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    said: str = ""


def process_context(device: str) -> BaseContext:
    """Return the way to start a check's process: forked from one with the engine imported, where that leaves the device usable."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    first = context.Process(target=_reach, args=(device,))  # the imports are to be no check's time
    first.start()
    first.join()
    return multiprocessing.get_context("spawn") if first.exitcode else context


def _reach(device: str) -> None:
    """Touch the device: a library that did so while it was imported leaves it unusable in what is forked afterwards."""
    import torch

    torch.zeros(1, device=device)


def left_out(check: Check, device: str) -> str:
    """Say why a check cannot run here; empty where it can."""
    missing = [name for name in check.needs if find_spec(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    return check.cuda_only if device != "cuda" else ""


def run_check(
    check: Check,
    setting: Setting,
    context: BaseContext,
    found: Callable[[Check, Row], None] = lambda _check, _row: None,
) -> Result:
    """Run a check in a process of its own, and give what came of it.

    Args:
        check: Which.
        setting: Where, and within how many seconds.
        context: From `process_context`.
        found: Told each row as it comes.
    """
    reader, writer = context.Pipe(duplex=False)
    log = Path(setting.folder) / f"{check.name}.log"
    process = cast("Any", context).Process(target=_take, args=(check.function, setting, writer, str(log)), name=check.name)
    began = time.monotonic()
    process.start()
    writer.close()
    result = Result(check, "hung")
    try:
        _listen(reader, began + setting.seconds, result, found)
        process.join(_UNWIND_S if result.state != "hung" else 0)
    finally:
        if process.is_alive():
            _kill(process)
        process.join()
        reader.close()
    result.seconds = time.monotonic() - began
    if result.state == "hung":
        result.said = f"No end within {setting.seconds:.0f} s.\n{_last_lines(log)}"
    elif result.state == "broke" and not result.said:
        result.said = f"Its process ended with {process.exitcode}.\n{_last_lines(log)}"
    return result


def _listen(reader: Connection, until: float, result: Result, found: Callable[[Check, Row], None]) -> None:
    """Take in a check's rows until it is over, its process is gone or its time is up."""
    while reader.poll(max(0.0, until - time.monotonic())):
        try:
            kind, told = reader.recv()
        except EOFError:
            result.state = "broke"
            return
        if kind == "row":
            result.rows.append(told)
            found(result.check, told)
            continue
        result.said = told
        failed = not result.rows or any(row.passed is False for row in result.rows)
        result.state = "broke" if told else "failed" if failed else "passed"
        return


def _kill(process: Any) -> None:
    """End a process and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _last_lines(log: Path) -> str:
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])


def _take(function: str, setting: Setting, writer: Connection, log: str) -> None:
    """Be the process of a check."""
    if hasattr(os, "setsid"):
        os.setsid()  # what it starts ends with it
    with Path(log).open("w", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        faulthandler.dump_traceback_later(max(_DUMP_BEFORE_S, setting.seconds - _DUMP_BEFORE_S), file=file)
        said = ""
        try:
            module, _, name = function.partition(":")
            for row in getattr(importlib.import_module(module), name)(setting):
                writer.send(("row", row))
        except BaseException:
            said = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        with contextlib.suppress(BrokenPipeError):
            writer.send(("over", said))
        sys.stdout.flush()
        os._exit(0)  # threads of libraries are nobody's business any more


@dataclass(frozen=True)
class Call:
    """Checks to run one after the other within so much time.

    Attributes:
        checks: The most important first.
        device: `cuda` or `cpu`.
        tiny: See `Setting`.
        seconds: For all together.
    """

    checks: tuple[Check, ...]
    device: str
    tiny: bool
    seconds: float

    def run(
        self,
        folder: Path,
        found: Callable[[Check, Row], None] = lambda _check, _row: None,
        ended: Callable[[Result], None] = lambda _result: None,
    ) -> list[Result]:
        """Run all checks, and give what came of each; `found` is told rows and `ended` results as they come."""
        context = process_context(self.device)
        until = time.monotonic() + self.seconds
        results: list[Result] = []
        for check in self.checks:
            why = left_out(check, self.device)
            seconds = min(check.limit, until - time.monotonic())
            if why:
                result = Result(check, "left out", said=why)
            elif seconds < _SHORTEST_S:
                result = Result(check, "no time left")
            else:
                result = run_check(check, Setting(self.device, self.tiny, str(folder), seconds), context, found)
            results.append(result)
            ended(result)
        return results
