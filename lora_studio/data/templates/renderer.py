"""The parent's side of the child that renders: started when first needed, asked for a block at a time, always joined.

Starts a process outside `jobs/`, as `export.programs` does: a chat template that loops cannot be stopped in a thread, and this room
may not reach for a host. Every wait for the child has a limit, and says what the child was at.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from lora_studio.core.waits import exit_words, reap, waiting, watched
from lora_studio.data.templates.render_child import SIZE_BYTES

_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ", "TEMP", "TMP", "LD_LIBRARY_PATH")
_ENDS_SECONDS = 5.0
_STEPS = {"start": "starting", "import": "importing what it renders with", "compile": "reading the template", "render": "rendering"}
_CLOCK = b"Timeout ("  # how faulthandler begins when the child's own clock ends it


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may take, on a machine that is free.

    Attributes:
        start: Seconds to start, and as many to import what it renders with.
        late: Seconds that an answer may come later than the child's own clock allows.
        memory: Bytes of address space.
    """

    start: float = 120.0
    late: float = 30.0
    memory: int = 2 << 30


class RendererDiedError(Exception):
    """The child ended before it answered, or was ended because it did not.

    Attributes:
        step: What it was at: `start`, `import`, `compile` or `render`.
        overran: Whether its own clock ended it, which is the template's fault.
    """

    def __init__(self, step: str, how: str, *, overran: bool = False) -> None:
        """Take the step, and how it ended in words that follow its name."""
        super().__init__(f"{how} while {_STEPS[step]}")
        self.step = step
        self.overran = overran


class Renderer:
    """One template in a child of its own.

    While the child renders a block the parent is free: `send` returns at once, `receive` waits for the answer.
    """

    def __init__(
        self,
        template: str,
        special_tokens: Mapping[str, Any],
        end_tokens: Sequence[str],
        *,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        """Take a template, the tokenizer's tokens, the child's limits, and the options `render_child` knows, as plain values."""
        self._limits = limits or Limits()
        self._setup = {
            "template": template,
            "special_tokens": dict(special_tokens),
            "end_tokens": list(end_tokens),
            "memory": self._limits.memory,
            **options,
        }
        self.variables: tuple[str, ...] = ()
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._step = "start"
        self._seconds = 0.0  # that the child gives itself for what it is at

    def start(self, seconds: float) -> str:
        """Start the child and let it compile the template; give what is wrong with the template, empty when nothing is.

        Args:
            seconds: Of a free machine: a child's own clock goes by the wall, so it gets more on a busy one.

        Raises:
            RendererDiedError: It did not start, or compiling took longer than `seconds`.
        """
        self.close()
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._step, self._seconds = "start", seconds * waiting()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "lora_studio.data.templates.render_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**environment, "PYTHONPATH": paths, "PYTHONUTF8": "1"},
        )
        while self._step != "compile":
            self._step = str(self._hear()["step"])
        self._write({**self._setup, "seconds": self._seconds})
        reply: dict[str, Any] = self._hear()
        self._step = "render"
        self.variables = tuple(map(str, reply.get("variables", ())))
        return str(reply["fault"])

    @property
    def running(self) -> bool:
        """Whether the child was started and has not been closed."""
        return self._child is not None

    def send(self, rows: list[dict[str, Any]], seconds: float) -> None:
        """Hand the child a block, which it must render within `seconds` of a free machine.

        Raises:
            RendererDiedError: It ended instead, or does not take the block.
        """
        self._seconds = seconds * waiting()
        self._write({"rows": rows, "seconds": self._seconds})

    def receive(self) -> list[list[Any]]:
        """Return the child's answer to the block sent last.

        Raises:
            RendererDiedError: It ended instead, or does not answer.
        """
        replies: list[list[Any]] = self._hear()
        return replies

    def close(self) -> None:
        """End the child, which has nothing to save, and wait for it."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        child.kill()  # first: what is left to write to a child that reads nothing would be waited for
        with contextlib.suppress(OSError):
            child.stdin.close()
        child.stdout.close()
        reap(child)
        if self._errors is not None:
            self._errors.close()

    def _write(self, message: dict[str, Any]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        frame = marshal.dumps(message)
        with watched(self._child.kill, self._limit) as watch, contextlib.suppress(OSError):
            self._child.stdin.write(len(frame).to_bytes(SIZE_BYTES, "little") + frame)
            self._child.stdin.flush()
            return
        raise self._died(silent=watch.silent)

    def _hear(self) -> Any:
        """Read the child's next line."""
        assert self._child is not None
        assert self._child.stdout is not None
        with watched(self._child.kill, self._limit) as watch:
            line = self._child.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._died(silent=watch.silent)
        return json.loads(line)

    @property
    def _limit(self) -> float:
        return self._limits.start if self._step in ("start", "import") else self._seconds + self._limits.late

    def _died(self, *, silent: bool) -> RendererDiedError:
        """End what is left of the child, and say what became of it."""
        assert self._child is not None
        assert self._errors is not None
        child = self._child
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_ENDS_SECONDS)
        status = child.poll()
        self._errors.seek(0)
        said = self._errors.read().strip()
        limit = self._limit
        self.close()
        if silent or status is None:
            return RendererDiedError(self._step, f"did not answer for {limit:g} s")
        last = said.decode("utf-8", "replace").rpartition("\n")[2]
        overran = said.startswith(_CLOCK)
        return RendererDiedError(self._step, exit_words(status) + (f" ({last[:200]})" if last and not overran else ""), overran=overran)
