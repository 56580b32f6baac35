"""Rows that are sound, and that the training method has no use for as they are."""

from __future__ import annotations

from lora_studio.core.findings import Finding
from lora_studio.data.check import DataCheck

REFUSED: frozenset[str] = frozenset({"preference", "unpaired_preference"})
"""Formats that supervised fine-tuning has no use for as they are."""


def method_findings(check: DataCheck, method: str = "sft") -> list[Finding]:
    """Say which files hold preference rows: what of them supervised fine-tuning learns is not for the studio to choose.

    Args:
        check: What the files hold.
        method: `training.method`.
    """
    found: list[Finding] = []
    for file in check.files if method == "sft" else ():
        if file.format == "preference":
            found.append(
                Finding(
                    "error",
                    "preference_rows",
                    f"{file.path} holds preference rows (prompt, chosen, rejected), and {method} learns from one answer.",
                    "To learn the chosen answers set data.format to prompt_completion, and data.columns to "
                    "{prompt: prompt, completion: chosen}.",
                    "data.columns",
                )
            )
        elif file.format == "unpaired_preference":
            found.append(
                Finding(
                    "error",
                    "labelled_rows",
                    f"{file.path} holds labelled answers, and {method} would learn those labelled false as well.",
                    "Leave only rows with a true label in the file, then set data.format to prompt_completion.",
                    "data.format",
                )
            )
    return found


def refuse_untrainable(check: DataCheck, method: str = "sft") -> None:
    """Refuse files whose rows the method cannot learn from as they are.

    Raises:
        InputError: There is one; it names the settings that say what to learn.
    """
    for finding in method_findings(check, method):
        raise finding.as_error()
