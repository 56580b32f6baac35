"""How far a run is: what has to be known, beside weights and moments, to go on from a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.batching.plan import StepBatch


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Optimizer steps taken.
        tokens: Tokens gone through, without padding.
        trained_tokens: Trained tokens gone through.
        skipped_in_a_row: Steps skipped since the last one taken.
        recent_losses: Losses of the last steps, which the next is held against.
        evaluated_step: Steps taken at the last evaluation; -1 before the first.
        best_step: Steps taken at the best evaluation since the first step; 0 before there is one.
        best_loss: Its loss.
        stale_evaluations: Evaluations since one was better than the best before it by the threshold.
    """

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    skipped_in_a_row: int = 0
    recent_losses: tuple[float, ...] = ()
    evaluated_step: int = -1
    best_step: int = 0
    best_loss: float | None = None
    stale_evaluations: int = 0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Progress:
        """Read what `dataclasses.asdict` gave.

        Raises:
            TypeError: It is of another layout.
        """
        fields: dict[str, Any] = {**raw, "recent_losses": tuple(raw.get("recent_losses", ()))}
        return cls(**fields)

    def advanced(self, batch: StepBatch) -> Progress:
        """Return the progress after one more step."""
        return replace(
            self, step=self.step + 1, tokens=self.tokens + batch.tokens, trained_tokens=self.trained_tokens + batch.trained_tokens
        )

    def evaluated(self, loss: float, threshold: float) -> Progress:
        """Return the progress after an evaluation at this step; the one before the first step is no candidate for the best."""
        if not self.step:
            return replace(self, evaluated_step=0)
        better = self.best_loss is None or loss < self.best_loss
        clearly = self.best_loss is None or loss < self.best_loss - threshold
        return replace(
            self,
            evaluated_step=self.step,
            stale_evaluations=0 if clearly else self.stale_evaluations + 1,
            best_step=self.step if better else self.best_step,
            best_loss=loss if better else self.best_loss,
        )

    def stops_early(self, settings: TrainingSettings) -> bool:
        """Return whether evaluations have not improved for as long as the settings bear."""
        return 0 < settings.early_stopping_patience <= self.stale_evaluations
