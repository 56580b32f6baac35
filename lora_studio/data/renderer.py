"""The parent's side of the child that renders: started when first needed, asked for a block at a time, always joined.

Starts a process outside `jobs/`, as `export.programs` does: a chat template that loops cannot be stopped in a thread, and this room
may not reach for a host.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lora_studio.data.render_child import SIZE_BYTES

_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ", "TEMP", "TMP", "LD_LIBRARY_PATH")
_JOIN_SECONDS = 5.0


class RendererDiedError(Exception):
    """The child ended before it answered: its time was up, or it was killed."""


class Renderer:
    """One template in a child of its own.

    While the child renders a block the parent is free: `send` returns at once, `receive` waits for the answer.
    """

    def __init__(self, template: str, special_tokens: Mapping[str, Any], end_tokens: Sequence[str], **options: Any) -> None:
        """Take a template, the tokenizer's tokens, and the options `render_child` knows, as plain values."""
        self._setup = {"template": template, "special_tokens": dict(special_tokens), "end_tokens": list(end_tokens), **options}
        self.variables: tuple[str, ...] = ()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float) -> str:
        """Start the child and let it compile the template; give what is wrong with the template, empty when nothing is.

        Raises:
            RendererDiedError: Compiling took longer than `seconds`.
        """
        self.close()
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "lora_studio.data.render_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**environment, "PYTHONPATH": paths, "PYTHONUTF8": "1"})
        self._write({**self._setup, "seconds": seconds})
        reply: dict[str, Any] = self._read()
        self.variables = tuple(map(str, reply.get("variables", ())))
        return str(reply["fault"])

    @property
    def running(self) -> bool:
        """Whether the child was started and has not been closed."""
        return self._child is not None

    def send(self, rows: list[dict[str, Any]], seconds: float) -> None:
        """Hand the child a block, which it must render within `seconds`."""
        # A child that died meanwhile says so when its answer is asked for.
        with contextlib.suppress(RendererDiedError):
            self._write({"rows": rows, "seconds": seconds})

    def receive(self) -> list[list[Any]]:
        """Give the child's answer to the block sent last.

        Raises:
            RendererDiedError: It ended instead.
        """
        replies: list[list[Any]] = self._read()
        return replies

    def close(self) -> None:
        """End the child and wait for it."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(OSError):
            child.stdin.close()
        child.stdout.close()
        try:
            child.wait(0.2 if child.poll() is None else _JOIN_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(_JOIN_SECONDS)

    def _write(self, message: dict[str, Any]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            frame = marshal.dumps(message)
            self._child.stdin.write(len(frame).to_bytes(SIZE_BYTES, "little") + frame)
            self._child.stdin.flush()
        except OSError as error:
            raise RendererDiedError from error

    def _read(self) -> Any:
        assert self._child is not None
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line.endswith(b"\n"):
            raise RendererDiedError
        return json.loads(line)
