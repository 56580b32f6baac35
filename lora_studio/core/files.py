"""Files and folders that are whole or absent: written beside, synced to disk, renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Generator
from pathlib import Path

from lora_studio.core.errors import InputError

_BESIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<what>part|old)")  # as `_name_beside` makes them
_HASH_BLOCK = 1 << 20


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system has such a thing (Windows has not)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Flush one file's bytes to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, itself included, to disk."""
    for parent, _folders, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent) / name)
        sync_folder(Path(parent))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a reader, or a power cut, sees the old bytes or the new ones.

    Text is written as UTF-8 with "\\n" line ends on every system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode("utf-8") if isinstance(content, str) else content
    beside = _name_beside(path, "part")
    try:
        with beside.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(target: Path, *, overwrite: bool = False) -> Generator[Path]:
    """Yield a folder to fill that takes the name `target` only when the block ends well.

    The work happens in a hidden folder beside `target`; on any exception it is removed and `target` is
    untouched. With `overwrite`, what stood at `target` is moved aside first and removed after the rename.

    Raises:
        InputError: `target` exists and `overwrite` is false, or is no folder, or its parent cannot be written.
    """
    refuse_existing(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = _name_beside(target, "part")
        beside.mkdir()
    except OSError as error:
        raise InputError(f"Cannot write to {target.parent}: {error.strerror}.", "Choose a folder you may write to.") from error
    try:
        yield beside
        sync_tree(beside)
        refuse_existing(target, overwrite=overwrite)
        _take_name(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def sweep(folder: Path, names: Collection[str] = ()) -> None:
    """Remove what writers that were killed left in a folder; what one had moved aside and not replaced gets its name back.

    Nobody may be writing there.

    Args:
        folder: Where; it may be missing.
        names: What they were writing; empty for anything.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        found = _BESIDE.fullmatch(path.name)
        if found is None or (names and found["name"] not in names):
            continue
        if found["what"] == "old" and not (folder / found["name"]).exists():
            path.rename(folder / found["name"])
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise `InputError` when `target` exists and may not be replaced: a file never is, an empty folder counts as free."""
    if not target.exists():
        return
    if target.is_dir() and (overwrite or not any(target.iterdir())):
        return
    raise InputError(f"{target} exists already.", "Choose another name, or allow it to be replaced.")


def _take_name(beside: Path, target: Path) -> None:
    if not target.exists():
        beside.rename(target)
    else:
        aside = _name_beside(target, "old")
        target.rename(aside)
        try:
            beside.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    sync_folder(target.parent)


def _name_beside(path: Path, suffix: str) -> Path:
    """Return a hidden name of its own beside `path`; what is made there gets the person's usual permissions."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.{suffix}"


def sha256_of(path: Path, look: Callable[[], None] = lambda: None) -> str:
    """Return a file's SHA-256 as 64 hexadecimal digits, reading it in blocks of 1 MiB; `look` is called between them and may raise."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
            look()
    return digest.hexdigest()


def bytes_below(folder: Path) -> int:
    """Add up the sizes of all files below `folder`, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
