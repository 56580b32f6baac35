"""Runs on disk: a run is a folder, its state is what its lock and its last event say.

`run.yaml` is the exact config, `events.jsonl` all that happened, `run.lock` an operating system's lock held by the one
who writes. Nothing else has to be right for a run to be read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import read_run_config, write_config
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import RunEvent, read_events
from lora_studio.core.locks import is_locked, lock_file, unlock_file

RunState = Literal["new", "running", "finished", "stopped", "failed", "interrupted"]
ENDED: dict[str, RunState] = {"run_finished": "finished", "run_stopped": "stopped", "run_failed": "failed"}

_TAIL_BLOCK = 1 << 16
_LOCK_PATIENCE_S = 1.0


class RunFolder:
    """One run's folder. `RunFolder.open` checks that it is one; the constructor believes it.

    Attributes:
        path: The folder, absolute.
    """

    def __init__(self, path: Path, config: RunConfig | None = None) -> None:
        """Take a run's folder; `config` is the run's, where the folder is out of sight."""
        self.path = path.resolve()
        self._config = config

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the run at `path`.

        Raises:
            InputError: There is no such folder, or it holds no run.
        """
        if not path.is_dir():
            raise InputError(f"There is no folder {path}.", "Give the folder of a run; `lora-studio runs` lists them.")
        if not (path / "run.yaml").is_file():
            raise InputError(f"{path} is no run: it has no run.yaml.", "Give the folder of a run; `lora-studio runs` lists them.")
        return cls(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def config_path(self) -> Path:
        """The run's `run.yaml`."""
        return self.path / "run.yaml"

    @property
    def events_path(self) -> Path:
        """The run's `events.jsonl`; absent until the run starts."""
        return self.path / "events.jsonl"

    @property
    def lock_path(self) -> Path:
        """The file whose lock the writer holds."""
        return self.path / "run.lock"

    @property
    def control_path(self) -> Path:
        """Where requests to a child process are laid down."""
        return self.path / "control"

    @property
    def adapter_path(self) -> Path:
        """The finished PEFT adapter; absent until the run has saved one."""
        return self.path / "adapter"

    @property
    def exports_path(self) -> Path:
        """Where exports of this run go unless told otherwise."""
        return self.path / "exports"

    @cached_property
    def config(self) -> RunConfig:
        """The exact config of the run, which never changes.

        Raises:
            InputError: `run.yaml` cannot be read.
        """
        return self._config or self._read_config()[0]

    def complete_config(self) -> None:
        """Write what `config` takes from before a setting was there into `run.yaml`, if it is too old to name them all.

        Raises:
            InputError: `run.yaml` cannot be read.
            OSError: It cannot be written.
        """
        if self._read_config()[1]:
            write_config(self.config_path, self.config)

    def _read_config(self) -> tuple[RunConfig, tuple[str, ...]]:
        try:
            text = self.config_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Cannot read {self.config_path}: {error}.", "Give the folder of a run.") from error
        return read_run_config(text, name=str(self.config_path))

    @property
    def state(self) -> RunState:
        """What the run is at: `running` while someone holds its lock, `new` before its first event, else how it ended."""
        if is_locked(self.lock_path):
            return "running"
        last = last_line(self.events_path)
        return "new" if last is None else ENDED.get(str(last.get("event")), "interrupted")

    def events(self) -> Iterator[RunEvent]:
        """Read all events in order; none for a run that never started. Torn lines are passed over."""
        if not self.events_path.is_file():
            return
        with self.events_path.open("rb") as file:
            yield from read_events(file)

    @property
    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, the oldest first."""
        found = [path for path in (self.path / "checkpoints").glob("step-*") if path.is_dir()]
        return sorted(found, key=checkpoint_order)

    @property
    def exports(self) -> list[Path]:
        """Whole exports, by name."""
        return sorted(path for path in self.exports_path.glob("*") if not path.name.startswith("."))

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Hold the run for writing.

        Raises:
            StudioError: Someone else writes to this run.
        """
        handle = self._take_lock()
        try:
            yield
        finally:
            unlock_file(handle)

    def delete(self) -> None:
        """Remove the run and all that is in it.

        Raises:
            StudioError: The run is alive.
        """
        with self.lock():
            pass  # nobody writes; Windows moves no folder in which a file is open, so the lock is let go of first
        aside = self.path.with_name(f".{self.path.name}.deleted")
        shutil.rmtree(aside, ignore_errors=True)
        self.path.rename(aside)
        shutil.rmtree(aside)

    def _take_lock(self) -> IO[bytes]:
        """Try for a moment: whoever looks at the state holds the lock for an instant too."""
        until = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            handle = lock_file(self.lock_path)
            if handle is not None:
                return handle
            if time.monotonic() > until:
                raise StudioError(f"Another program is writing to the run {self.path}.", "Wait until it ends, or stop it there.")
            time.sleep(0.02)


def checkpoint_order(path: Path) -> tuple[int, str]:
    """Return what checkpoints are sorted by: six digits, or more from a million steps on."""
    return len(path.name), path.name


def last_line(path: Path) -> dict[str, Any] | None:
    """Return the last whole line of a JSON-lines file as a dictionary, reading from its end; None when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            block = _TAIL_BLOCK
            while True:
                file.seek(max(0, size - block))
                lines = file.read(block).split(b"\n")
                found = _last_mapping(lines if block >= size else lines[1:])
                if found is not None or block >= size:
                    return found
                block *= 4
    except FileNotFoundError:
        return None


def _last_mapping(lines: list[bytes]) -> dict[str, Any] | None:
    for line in reversed(lines):
        try:
            value: object = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


@dataclass(frozen=True)
class RunSummary:
    """One row of the list of runs.

    Attributes:
        path: The run's folder.
        name: The config's name.
        started: When the first event was written, in seconds since the epoch; 0 for a run that never started.
        state: As `RunFolder.state`.
        base_model: The config's `model.name_or_path`.
        r: The adapter's rank.
        lora_alpha: The adapter's alpha.
        steps: Optimizer steps taken.
        total_steps: Steps planned; 0 when not known.
        last_loss: Loss of the last step; None before the first.
        best_eval: Lowest evaluation loss; None before the first.
        duration: Seconds spent in all attempts.
    """

    path: Path
    name: str
    started: float
    state: RunState
    base_model: str
    r: int
    lora_alpha: float
    steps: int
    total_steps: int
    last_loss: float | None
    best_eval: float | None
    duration: float
