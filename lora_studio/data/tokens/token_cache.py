"""Where tokenized data sets are kept: a folder for each content, tokenizer and way of reading, the least used ones removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.files import bytes_below, sha256_of, whole_folder, write_atomically
from lora_studio.core.paths import studio_paths
from lora_studio.data.tokens.token_store import MANIFEST, StoreError, TokenStore, open_store

MOST_BYTES = 20_000_000_000
_HASHES = "hashes.json"
_MOST_HASHES = 2000
_SETTLED_NS = 2_000_000_000  # a file written again within the clock's grain would look the same
_ABANDONED_SECONDS = 86_400


def cache_folder() -> Path:
    """Return the folder of tokenized data sets."""
    return studio_paths().cache / "data"


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the name of what was made of these parts, which are plain JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def stored(key: str, build: Callable[[Path], None]) -> tuple[TokenStore, bool]:
    """Open what is stored under a key, building it first where it is missing or broken.

    Args:
        key: From `key_of`.
        build: Fills an empty folder; whatever it raises leaves nothing behind.

    Returns:
        The data set, and whether it was there already.

    Raises:
        StudioError: The disk is full or cannot be written.
    """
    target = cache_folder() / key
    found = _open(target)
    if found is not None:
        return found, True
    _remove(target)
    try:
        with whole_folder(target) as folder:
            build(folder)
    except OSError as error:
        raise StudioError(
            f"Cannot write the prepared data to {target.parent}: {error.strerror or error}.",
            "Make room there, or set LORA_STUDIO_HOME.",
        ) from error
    except InputError:
        if not (target / MANIFEST).is_file():  # else another program built the same meanwhile
            raise
    prune(keep=key)
    return open_store(target), False


def prune(keep: str, most_bytes: int | None = None) -> None:
    """Remove the data sets used longest ago until all together take at most `most_bytes`, and what was left half made."""
    limit = MOST_BYTES if most_bytes is None else most_bytes
    folders = [path for path in cache_folder().iterdir() if path.is_dir()]
    for path in folders:
        if path.name.startswith(".") and time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            _remove(path)
    entries = sorted((path for path in folders if not path.name.startswith(".")), key=_used, reverse=True)
    total = 0
    for path in entries:
        total += bytes_below(path)
        if total > limit and path.name != keep:
            _remove(path)


class FileHashes:
    """SHA-256 of files, remembered by path, size, time and inode, so that unchanged files are not read again."""

    def __init__(self) -> None:
        self._path = cache_folder() / _HASHES
        self._known = _read_json(self._path)
        self._changed = False

    def of(self, path: Path, look: Callable[[], None]) -> str:
        """Return a file's SHA-256; `look` is called now and then, and may raise to cancel."""
        stat = path.stat()
        name = str(path.resolve())
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known: Any = self._known.get(name)
        if isinstance(known, list) and known[:3] == mark:
            return str(known[3])
        digest = sha256_of(path, look)
        if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
            self._known.pop(name, None)
            self._known[name] = [*mark, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Remember what was hashed; the oldest entries go when there are very many."""
        if self._changed:
            newest = dict(list(self._known.items())[-_MOST_HASHES:])
            with contextlib.suppress(OSError):
                write_atomically(self._path, json.dumps(newest))


def hashes_of(files: Mapping[str, Path], look: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Return the SHA-256 of each file, by what it is called; what is no file of this machine gets a word that no other call gives.

    `look` is called now and then, and may raise to cancel.
    """
    known = FileHashes()
    found = {name: known.of(file, look) if file.is_file() else secrets.token_hex(16) for name, file in files.items()}
    known.save()
    return found


def _open(target: Path) -> TokenStore | None:
    try:
        store = open_store(target)
    except StoreError:
        return None
    with contextlib.suppress(OSError):
        os.utime(target / MANIFEST)  # what `prune` goes by
    return store


def _used(path: Path) -> float:
    try:
        return (path / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    """Take a folder out of its name at once, then delete it; one that is in use may stay for a later call."""
    if not path.exists():
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    with contextlib.suppress(OSError):
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
