"""One undoable change of the draft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtGui import QUndoCommand

from lora_studio.core.config import RunConfig

_MERGEABLE = 1


@dataclass(frozen=True)
class Draft:
    """A config and the file it was opened from or saved as.

    Attributes:
        config: The settings.
        path: Its file, where it has one.
        keeps_path: Whether going here leaves the file as it is: an edit does, opening another file does not.
    """

    config: RunConfig
    path: Path | None = None
    keeps_path: bool = False


class EditCommand(QUndoCommand):
    """The draft before and after an edit. Edits of one gesture, such as a slider's drag, merge into one."""

    def __init__(self, text: str, before: Draft, after: Draft, apply: Callable[[Draft], None], gesture: str = "") -> None:
        super().__init__(text)
        self._before = before
        self._after = after
        self._apply = apply
        self._gesture = gesture

    def id(self) -> int:
        """Tell Qt whether this command may merge with the next."""
        return _MERGEABLE if self._gesture else -1

    def mergeWith(self, other: QUndoCommand) -> bool:
        """Take over the end of a later edit of the same gesture."""
        if not isinstance(other, EditCommand) or other._gesture != self._gesture:
            return False
        self._after = other._after
        self.setObsolete(self._after.config == self._before.config)
        return True

    def undo(self) -> None:
        """Go back to the draft before."""
        self._apply(self._before)

    def redo(self) -> None:
        """Go to the draft after."""
        self._apply(self._after)
