"""Watches the losses of a run: one that leaves its course, and numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lora_studio.core.errors import StudioError
from lora_studio.core.events import Notice
from lora_studio.train.faults import not_finite
from lora_studio.train.spikes import SpikeWatch
from lora_studio.train.stepper import StepOutcome

_MOST_SKIPPED = 5
_MOST_SKIPPED_SCALED = 30  # a loss scale finds its height by halving: 2^16 down takes as many tries


class LossGuard:
    """Says what a person should know of a step's numbers, and when to give up."""

    def __init__(self, *, scaled: bool, losses: Iterable[float] = ()) -> None:
        """Begin to watch.

        Args:
            scaled: Whether the loss is scaled (float16), so that steps are skipped until the scale is found.
            losses: The losses of an earlier attempt, which the next is held against.
        """
        self._scaled = scaled
        self._spikes = SpikeWatch(losses)

    @property
    def losses(self) -> tuple[float, ...]:
        """The losses that the next one is held against."""
        return self._spikes.losses

    def spike(self, step: int, loss: float) -> Notice | None:
        """Take in the finite loss of a step; return a warning where it rose far above those before it."""
        usual = self._spikes.usual_before(loss)
        if usual is None:
            return None
        return Notice(
            level="warning",
            code="loss_spike",
            step=step,
            message=f"The loss rose to {loss:.3g} in step {step}; it was about {usual:.3g} before.",
            hint="A single one often passes. If it stays, stop and lower learning_rate, or look at the rows of that step.",
        )

    def gives_up(self, skipped_in_a_row: int) -> bool:
        """Return whether so many skipped steps in a row end the run."""
        return skipped_in_a_row >= (_MOST_SKIPPED_SCALED if self._scaled else _MOST_SKIPPED)

    def fault(self, step: int, outcome: StepOutcome, skipped_in_a_row: int, safe: str) -> StudioError:
        """Return the error that ends the run; `safe` says what is on disk."""
        return not_finite(_what(outcome), skipped_in_a_row, step, safe)

    def skipped(self, step: int, outcome: StepOutcome) -> Notice:
        """Return what to tell of a step that was not taken since its numbers were not finite."""
        scale = f" The loss scale is {outcome.loss_scale:g} now." if self._scaled else ""
        return Notice(
            level="info" if self._scaled else "warning",
            code="step_skipped",
            step=step,
            message=f"Step {step} was skipped: its {_what(outcome)} was not a finite number.{scale}",
            hint="The adapter did not move. Should it happen again, lower learning_rate.",
        )


def _what(outcome: StepOutcome) -> str:
    return "gradient" if math.isfinite(outcome.loss) else "loss"
