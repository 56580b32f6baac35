"""What a person should know about a config before it runs: an error stops it, a warning and a note do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lora_studio.core.errors import InputError

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        level: "error" stops the run, "warning" deserves a look, "note" is good to know.
        code: A short constant name for programs, such as `target_unmatched`.
        message: What was found, as a sentence.
        hint: The way out, as a sentence; empty when there is none.
        field: Dotted `RunConfig` path it is about; empty when none is.
        subject: The entry of that setting it is about, such as a name in `target_modules`; empty when it is about the whole.
    """

    level: Level
    code: str
    message: str
    hint: str = ""
    field: str = ""
    subject: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding as `plan --json` shows it."""
        return {"level": self.level, "code": self.code, "message": self.message, "hint": self.hint}

    def as_error(self) -> InputError:
        """Return the error to raise for it."""
        return InputError(self.message, self.hint, self.field)
