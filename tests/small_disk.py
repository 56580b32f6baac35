"""Disks that are full when a test says so: a small file system of its own, or the system's own bound on how long a file may be."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Generator
from pathlib import Path

_CHUNK = b"x" * 4096


class SmallDisk:
    """A folder whose disk can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, _beside: Path) -> None:
        """Leave no room at all."""
        raise NotImplementedError

    def make_room(self) -> None:
        """Have room again."""
        raise NotImplementedError


class SmallFileSystem(SmallDisk):
    """A tmpfs of 2 MB."""

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self, _beside: Path) -> None:
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(_CHUNK)
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"x")

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)


class BoundFiles(SmallDisk):
    """No file may grow beyond what the longest relevant one has."""

    def fill(self, beside: Path) -> None:
        length = beside.stat().st_size if beside.is_file() else 512
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))

    def make_room(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def small_file_system(folder: Path) -> Generator[SmallDisk | None]:
    """Mount a small tmpfs at `folder` for a block; None where this process may not."""
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        yield None
        return
    try:
        yield SmallFileSystem(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def bound_files(folder: Path) -> Generator[SmallDisk]:
    """Bound the length of files for a block, once it is asked for."""
    disk = BoundFiles(folder)
    try:
        yield disk
    finally:
        disk.make_room()
