"""Where an export may go: a free name, an empty folder, or the place of an earlier export. No torch here."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.files import sweep, sync_folder, sync_tree
from lora_studio.core.locks import lock_file, unlock_file
from lora_studio.core.paths import studio_paths

CERTIFICATE_NAME = "certificate.json"
CERTIFICATE_PAGE = "certificate.html"
_ELSEWHERE = "Choose another folder."


def check_destination(target: Path, *, overwrite: bool, needed: Iterable[Path] = ()) -> None:
    """See that an export may take the name `target`.

    Args:
        target: The folder to make, resolved.
        overwrite: Whether an earlier export there may be replaced; nothing else ever is.
        needed: What must stay: base model, adapter, run. The working directory is kept as well.

    Raises:
        InputError: It is, or holds, something that must stay, or what stands there may not be replaced.
    """
    for kept in (Path.cwd(), *needed):
        if target == kept.resolve() or target in kept.resolve().parents:
            raise InputError(f"{target} cannot be the folder of an export: it holds {kept}.", _ELSEWHERE, "to")
    if not target.exists() or _is_empty_folder(target):
        return
    if not is_earlier_export(target):
        message = f"{target} exists already and is no earlier export: it has no {CERTIFICATE_NAME} of ours."
        raise InputError(message, f"{_ELSEWHERE} Only an earlier export is ever replaced.", "to")
    if not overwrite:
        raise InputError(f"{target} exists already.", "Choose another name, or allow the earlier export to be replaced.", "to")


@contextlib.contextmanager
def alone_at(target: Path) -> Generator[None]:
    """Be the only export to `target` for the length of a block; what one that was killed left beside it is removed first.

    Raises:
        InputError: Another export is writing there.
    """
    locks = studio_paths().cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = lock_file(locks / f"{hashlib.sha256(str(target).encode()).hexdigest()[:32]}.lock")
    if lock is None:
        raise InputError(f"Another export is writing to {target}.", "Wait for it, or choose another folder.", "to")
    try:
        with contextlib.suppress(OSError):
            sweep(target.parent, [target.name])
        yield
    finally:
        unlock_file(lock)


def is_earlier_export(folder: Path) -> bool:
    """Return whether a folder carries a certificate as exports do."""
    try:
        certificate: Any = json.loads((folder / CERTIFICATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(certificate, dict) and {"verdict", "rows_from", "tensors_checked"} <= certificate.keys()


def _is_empty_folder(target: Path) -> bool:
    return target.is_dir() and not any(target.iterdir())


def keep_as_failed(folder: Path, target: Path) -> Path:
    """Return an artefact that did not pass a name that says so, beside the one it was to have; give that.

    Raises:
        OSError: The disk does not take it.
    """
    number = 1
    while (kept := target.with_name(f"{target.name}-failed{'' if number == 1 else f'-{number}'}")).exists():
        number += 1
    sync_tree(folder)
    folder.rename(kept)
    sync_folder(kept.parent)
    return kept
