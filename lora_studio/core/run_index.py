"""A table of the runs, so that listing thousands is quick. It is a cache: every row can be made again from its folder.

A row stands for as long as the run's `run.yaml` and `events.jsonl` keep their sizes and times. Whether a run without a
last event is alive is never cached: its lock is asked.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lora_studio.core.errors import InputError
from lora_studio.core.events import read_events
from lora_studio.core.history import RunHistory
from lora_studio.core.locks import is_locked
from lora_studio.core.runs import ENDED, RunFolder, RunState, RunSummary

INDEX_NAME = ".index.sqlite"
_VERSION = 2
_COLUMNS = "folder, stamp, name, started, ended, base_model, r, lora_alpha, steps, total_steps, last_loss, best_eval, duration"


class RunIndex:
    """The index of the runs below `root`; a context manager.

    A missing, stale or corrupt index is made again; where the folder cannot be written it lives in memory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._database = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._database.close()

    def summaries(self) -> list[RunSummary]:
        """Return every run below the root, the latest first, with the index brought up to date."""
        try:
            rows = self._rows()
        except sqlite3.Error:
            self._database.close()
            self._database = _fresh(":memory:")
            rows = self._rows()
        found = [_summary(self._root, row) for row in rows.values()]
        return sorted(found, key=lambda run: (run.started or float("inf"), run.path.name), reverse=True)

    def _rows(self) -> dict[str, tuple[Any, ...]]:
        known = {row[0]: row for row in self._database.execute(f"SELECT {_COLUMNS} FROM runs")}
        stamps = dict(_stamps(self._root))
        stale = [name for name, stamp in stamps.items() if name not in known or known[name][1] != stamp]
        fresh = [row for row in (_row(self._root / name, stamps[name]) for name in stale) if row]
        gone = [(name,) for name in known if name not in stamps]
        if fresh or gone:
            with self._database:
                self._database.executemany("DELETE FROM runs WHERE folder = ?", gone)
                self._database.executemany(f"INSERT OR REPLACE INTO runs ({_COLUMNS}) VALUES ({', '.join('?' * 13)})", fresh)
        unreadable = set(stale) - {row[0] for row in fresh}
        kept = {name: row for name, row in known.items() if name in stamps and name not in unreadable}
        return {**kept, **{row[0]: row for row in fresh}}

    def _open(self) -> sqlite3.Connection:
        path = self._root / INDEX_NAME
        try:
            return _fresh(str(path))
        except sqlite3.DatabaseError:
            if not os.access(self._root, os.W_OK):
                return _fresh(":memory:")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        try:
            return _fresh(str(path))
        except sqlite3.DatabaseError:
            return _fresh(":memory:")


def _fresh(name: str) -> sqlite3.Connection:
    """Open the database and see that it has our table; one of another version is emptied."""
    database = sqlite3.connect(name, timeout=5)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            database.execute("DROP TABLE IF EXISTS runs")
            database.execute(f"CREATE TABLE IF NOT EXISTS runs ({_COLUMNS.replace('folder', 'folder TEXT PRIMARY KEY', 1)})")
            database.execute(f"PRAGMA user_version={_VERSION}")
        database.execute(f"SELECT {_COLUMNS} FROM runs LIMIT 1")
    except BaseException:
        database.close()
        raise
    return database


def _stamps(root: Path) -> Iterator[tuple[str, str]]:
    """Return each run's folder name and what tells that its files have changed."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            config = _stat(f"{entry.path}/run.yaml")
            if config:
                yield entry.name, f"{config} {_stat(f'{entry.path}/events.jsonl')}"


def _stat(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 - a string from scandir: making a Path costs more than the call, ten thousand times
    except OSError:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}"


def _row(path: Path, stamp: str) -> tuple[Any, ...] | None:
    try:
        config = RunFolder(path).config
    except InputError:
        return None
    history = _history(path / "events.jsonl")
    ended = history.last_event.event if history.last_event else ""
    chosen = (config.model.name_or_path, config.adapter.r, float(config.adapter.lora_alpha))
    best = min((loss for loss in history.evaluation.y if math.isfinite(loss)), default=None)
    done = (history.step, history.total_steps, _finite(history.loss.last), best, history.elapsed)
    return (path.name, stamp, config.name, history.began, ended, *chosen, *done)


def _summary(root: Path, row: tuple[Any, ...]) -> RunSummary:
    folder, _stamp, name, started, ended, base, r, alpha, steps, total, loss, best, duration = row
    path = root / folder
    state = ENDED.get(ended) or _unended_state(path, started)
    return RunSummary(path, name, started, state, base, r, alpha, steps, total, loss, best, duration)


def _unended_state(path: Path, started: float) -> RunState:
    """Say what a run without a last event is at, as `RunFolder.state` does, without reading its events again."""
    if is_locked(path / "run.lock"):
        return "running"
    return "interrupted" if started else "new"


def _finite(value: float | None) -> float | None:
    """Keep what SQL can hold: it has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _history(path: Path) -> RunHistory:
    """Fold a run's events, as whoever opens the run does; the many memory lines are not parsed, unless they are the last."""
    history = RunHistory()
    try:
        file = path.open("rb")
    except OSError:
        return history
    with file:
        for event in read_events(_without_memory(file)):
            history.add(event)
    return history


def _without_memory(lines: Iterable[bytes]) -> Iterator[bytes]:
    skipped = b""
    for line in lines:
        if b'"event":"memory"' in line:
            skipped = line
            continue
        skipped = b""
        yield line
    if skipped:
        yield skipped  # its time is how long the run has gone on
