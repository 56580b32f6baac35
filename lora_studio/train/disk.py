"""Writing that outlives a full disk: the run waits, its work in memory, until there is room."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from lora_studio.core.control import Control
from lora_studio.core.errors import StudioError
from lora_studio.core.events import Notice, Paused, Phase, RunEvent

_TRY_AGAIN_S = 2.0
_WAITED_FOR = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENODEV})
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as Rust's libraries tell one

Made = TypeVar("Made")


def disk_fault(error: BaseException | None) -> str:
    """Say in the system's words why a write failed, where that may pass; empty for any other error.

    Goes through the errors that led to it: ours and safetensors' are made of the system's.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, SafetensorError) and (found := _OS_ERROR.search(str(error))):
            number = int(found[1])
        if number in _WAITED_FOR:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def told(folder: Path) -> Generator[None]:
    """Turn a write that the disk does not take into a `StudioError` that names the folder."""
    try:
        yield
    except OSError as error:
        fault = disk_fault(error)
        if not fault:
            raise
        message = f"Cannot write to {folder}: {fault.lower()}, {_room(folder)}."
        raise StudioError(message, "Make room, or choose a folder you may write to.") from error


def until_written(
    write: Callable[[], Made],
    what: str,
    folder: Path,
    control: Control,
    step: int,
    safe: str,
) -> Generator[RunEvent, None, Made]:
    """Write, and where the disk does not take it, wait and try again; return what `write` gave.

    Args:
        write: Leaves nothing half done when it fails.
        what: Its object, such as "a checkpoint of step 8".
        folder: Where it writes.
        control: Abandoning ends the waiting; a stop does not, it wants the work kept.
        step: For the events.
        safe: What is on disk already, as a sentence.

    Raises:
        StudioError: The person gave it up while it could not be written.
    """
    waited = False
    while True:
        try:
            made = write()
        except (OSError, SafetensorError, StudioError) as error:
            fault = disk_fault(error)
            if not fault:
                raise
        else:
            if waited:
                yield Phase(name="saving", message=f"Wrote {what}", step=step)
            return made
        message = f"Cannot write {what} to {folder}: {fault.lower()}, {_room(folder)}."
        if control.abandoning:
            raise StudioError(f"Ended without {what}. {message}", f"{safe} Make room and resume the run.")
        if not waited:
            yield Notice(
                level="error",
                code="cannot_write",
                step=step,
                message=message,
                hint=f"The run waits, and goes on by itself once it can be written. {safe}",
            )
            yield Paused(step=step)
        waited = True
        control.wait(_TRY_AGAIN_S)


def _room(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free"
    except OSError:
        return "it cannot be looked at"
