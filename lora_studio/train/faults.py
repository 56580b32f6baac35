"""What ends a run that nobody asked to end, in words a person can act on."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from lora_studio.core.errors import StudioError
from lora_studio.train.progress import Progress

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad allocation",
    "could not create a primitive",  # oneDNN's word for it on a processor: seen under a limit on address space
)
_LOST_DEVICE = ("cuda error", "cublas_status", "cudnn_status", "hip error", "device-side assert", "unspecified launch failure")


class TooLargeError(Exception):
    """A micro-batch does not fit into the device's memory.

    Attributes:
        rows: Rows in it.
        width: Tokens of its longest row.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(f"{rows} rows of up to {width} tokens")
        self.rows = rows
        self.width = width


def told_fault(error: BaseException, safe: str) -> StudioError | None:
    """Tell an error out of the loop that is a want of memory, a lost device or a model's own refusal; None for any other.

    Args:
        error: What was raised.
        safe: What is on disk, as a sentence.
    """
    if is_out_of_memory(error):
        return StudioError("Out of memory while evaluating or sampling.", f"Lower max_length or sample_rows. {safe}", "data.max_length")
    if is_lost_device(error):
        first = str(error).strip().splitlines()[0][:200]
        return StudioError(f"The graphics card failed or is gone: {first}.", f"{safe} Start the program again, then resume the run.")
    family = _refusing_family(error)
    if family:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
        return StudioError(
            f"transformers does not train the family {family} on these rows: {first}.",
            f"Choose another base model. {safe}",
            "model.name_or_path",
        )
    return None


def _refusing_family(error: BaseException) -> str:
    """Name the family whose own code in transformers raised an error, of what it was given; empty where no such code did."""
    frames = traceback.extract_tb(error.__traceback__)
    family = Path(frames[-1].filename if frames else "").parent
    return family.name if family.parts[-3:-1] == ("transformers", "models") else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a want of memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def is_lost_device(error: BaseException) -> bool:
    """Return whether an error means that the device does not answer any more; nothing on it can be used after one."""
    kind = getattr(torch, "AcceleratorError", None)
    told = str(error).lower()
    return (kind is not None and isinstance(error, kind)) or any(words in told for words in _LOST_DEVICE)


def out_of_memory(error: TooLargeError, ways: Sequence[str]) -> StudioError:
    """Tell a person that not even one row fits, and what would help.

    Args:
        error: What did not fit.
        ways: Changes of settings with their prices, as `lora.cures.priced_suggestions` gives them.
    """
    hint = "Each of these helps: " + "; ".join([*ways, "a smaller base model"]) + "."
    return StudioError(f"Out of memory on {error.rows} row of {error.width} tokens.", hint, "data.max_length")


def not_finite(what: str, count: int, step: int, safe: str) -> StudioError:
    """Tell a person that the loss or the gradient stays not a number, and why that usually is."""
    return StudioError(
        f"The {what} was not a finite number in {count} steps in a row, the last of them step {step}.",
        "Usual causes: a learning_rate too high, float16 where bfloat16 or float32 is needed (compute_dtype), "
        f"or a damaged base model. {safe}",
        "training.learning_rate",
    )


def refuse_standstill(progress: Progress) -> None:
    """Raise `StudioError` where no step moved the adapter."""
    if progress.step and progress.skipped_in_a_row >= progress.step:
        raise StudioError(
            f"None of the {progress.step} steps moved the adapter: no loss and gradient was a finite number.",
            "Usual causes: a learning_rate too high, too few steps for float16's loss scale, or a damaged base model.",
            "training.learning_rate",
        )
