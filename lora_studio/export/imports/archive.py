"""Folders, zips and tars that nobody vouches for: what files they hold, and those files, read within what was declared. No torch here.

Nothing is unpacked by an archive's own names. What it says of itself is looked at first, and held to while it is read.
"""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lora_studio.core.errors import InputError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_MOST_ENTRIES = 10_000
_MOST_RATIO = 200  # weights hardly shrink; an archive that does is made to fill a disk
_SMALL = 10_000_000  # bytes below which a ratio says nothing
_BLOCK = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")
ELSEWHERE = "Take it from a source you trust."


@dataclass(frozen=True)
class Entry:
    """One file of an archive or a folder: its place there, its name, its bytes as declared."""

    place: str
    name: str
    size: int


class Container:
    """What an adapter is in: lists its entries, opens one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> Iterator[Entry]:
        """List the regular files, having refused whatever is hostile."""
        raise NotImplementedError

    def open(self, entry: Entry) -> IO[bytes]:
        """Open one for reading."""
        raise NotImplementedError


def is_archive(path: Path) -> bool:
    """Return whether a path is named as an archive we open."""
    return path.name.lower().endswith(ARCHIVES)


@contextmanager
def open_container(path: Path) -> Generator[Container]:
    """Open what a path is; damage found while it is read is told as such."""
    if path.is_dir():
        yield _Folder(path)
        return
    if not path.is_file():
        raise InputError(f"There is no {path}.", "Give a PEFT adapter's folder, or a zip of it.", "path")
    opener = _open_zip if zipfile.is_zipfile(path) else _open_tar if is_archive(path) else None
    if opener is None:
        hint = f"Give a PEFT adapter's folder, or an archive of it ({', '.join(ARCHIVES)})."
        raise InputError(f"{path} is neither a folder nor an archive that can be read.", hint, "path")
    try:
        with opener(path) as container:
            yield container
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise InputError(f"{path} is damaged: {error}.", "Download or copy it again.", "path") from error
    except RuntimeError as error:  # zipfile's word for a file that needs a password
        raise InputError(f"{path} cannot be read: {error}.", "Unpack it yourself, then give the folder.", "path") from error


def copy_entry(container: Container, entry: Entry, to: Path, look: Callable[[], None]) -> None:
    """Copy one file, no byte beyond what it was declared to have."""
    left = entry.size
    with container.open(entry) as source, to.open("xb") as out:
        while block := source.read(min(_BLOCK, left + 1)):
            look()
            left -= len(block)
            if left < 0:
                raise InputError(f"{container.path}: {entry.name} holds more than it claims.", ELSEWHERE, "path")
            out.write(block)
    if left:
        raise InputError(f"{container.path}: {entry.name} is cut.", "Download or copy it again.", "path")


class _Folder(Container):
    """A folder; of the Hub's cache too, where files are links to its blobs."""

    def entries(self) -> Iterator[Entry]:
        allowed = [self.path.resolve()]
        if self.path.parent.name == "snapshots" and self.path.parents[1].name.startswith("models--"):
            allowed.append(self.path.parents[1].resolve() / "blobs")
        for path in sorted(self.path.iterdir()):
            if not path.is_file():
                continue
            if path.is_symlink() and not any(path.resolve().is_relative_to(root) for root in allowed):
                if path.name.startswith("adapter_"):
                    raise InputError(f"{path} is a link to elsewhere.", "Put the file itself in its place.", "path")
                continue
            yield Entry("", path.name, path.stat().st_size)

    def open(self, entry: Entry) -> IO[bytes]:
        return (self.path / entry.name).open("rb")


class _Zip(Container):
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        super().__init__(path)
        self._archive = archive
        self._infos: dict[tuple[str, str], zipfile.ZipInfo] = {}

    def entries(self) -> Iterator[Entry]:
        infos = self._archive.infolist()
        _Limits(self.path).see(len(infos), sum(info.file_size for info in infos))
        for info in infos:
            _refuse_name(self.path, info.orig_filename)
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _hostile(self.path, f"{info.filename!r} is a link or a device")
            if info.flag_bits & 0x1:
                raise InputError(f"{self.path} is encrypted.", "Unpack it yourself, then give the folder.", "path")
            if not info.is_dir():
                entry = _entry_of(info.orig_filename, info.file_size)
                if (entry.place, entry.name) in self._infos:
                    raise _hostile(self.path, f"{info.filename!r} is in it twice")
                self._infos[entry.place, entry.name] = info
                yield entry

    def open(self, entry: Entry) -> IO[bytes]:
        return self._archive.open(self._infos[entry.place, entry.name])


class _Tar(Container):
    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        super().__init__(path)
        self._archive = archive
        self._members: dict[tuple[str, str], tarfile.TarInfo] = {}

    def entries(self) -> Iterator[Entry]:
        limits, count, total = _Limits(self.path), 0, 0
        for member in self._archive:
            count, total = count + 1, total + member.size
            limits.see(count, total)
            _refuse_name(self.path, member.name)
            if not (member.isreg() or member.isdir()):
                raise _hostile(self.path, f"{member.name!r} is a link or a device")
            if member.isreg():
                entry = _entry_of(member.name, member.size)
                if (entry.place, entry.name) in self._members:
                    raise _hostile(self.path, f"{member.name!r} is in it twice")
                self._members[entry.place, entry.name] = member
                yield entry

    def open(self, entry: Entry) -> IO[bytes]:
        opened = self._archive.extractfile(self._members[entry.place, entry.name])
        assert opened is not None  # it is a regular file
        return opened


@contextmanager
def _open_zip(path: Path) -> Generator[Container]:
    with zipfile.ZipFile(path) as archive:
        yield _Zip(path, archive)


@contextmanager
def _open_tar(path: Path) -> Generator[Container]:
    with tarfile.open(path, mode="r:*") as archive:
        yield _Tar(path, archive)


class _Limits:
    """How much an archive may claim to hold, by its own size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._most = max(_SMALL, path.stat().st_size * _MOST_RATIO)

    def see(self, entries: int, total: int) -> None:
        """Refuse an archive of too many files, or that would grow too much."""
        if entries > _MOST_ENTRIES:
            raise _hostile(self._path, f"it holds more than {_MOST_ENTRIES:,} files")
        if total > self._most:
            raise _hostile(self._path, f"it would grow to {total:,} bytes, more than {_MOST_RATIO} times its size")


def _entry_of(name: str, size: int) -> Entry:
    place, _, last = name.removeprefix("./").rpartition("/")
    return Entry(place, last, size)


def _refuse_name(path: Path, name: str) -> None:
    """Refuse names that lead out of where an archive is unpacked, on whichever system."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or _DRIVE.match(name):
        raise _hostile(path, f"the name {name[:80]!r} leads out of it")


def _hostile(path: Path, what: str) -> InputError:
    return InputError(f"{path} is refused: {what}.", ELSEWHERE, "path")
