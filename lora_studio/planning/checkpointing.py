"""Gradient checkpointing by degrees: which layers are computed again in the backward pass, and what that leaves in memory. Light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from lora_studio.core.training_settings import TrainingSettings


@dataclass(frozen=True)
class Checkpointing:
    """How many layers keep nothing but their input until the backward pass.

    Attributes:
        every: One in so many layers is computed again: 0 none, 1 all of them.
    """

    every: int

    @classmethod
    def of(cls, training: TrainingSettings) -> Self | None:
        """Read it from the settings; None for `auto`, which the memory estimate decides."""
        degrees = {"off": 0, "full": 1, "layers": training.gradient_checkpointing_every}
        wanted = training.gradient_checkpointing
        return None if wanted == "auto" else cls(degrees[wanted])

    def recomputes(self, layer: int, layers: int) -> bool:
        """Return whether a layer of so many, counted from 0, is computed again.

        Counted from the end, where the backward pass begins: by the time it comes to the first such layer, those behind it are free.
        """
        return self.every > 0 and (layers - layer) % self.every == 0

    def share(self, layers: int) -> float:
        """Return the share of so many layers that is computed again."""
        return sum(self.recomputes(layer, layers) for layer in range(layers)) / max(1, layers)

    def settings(self) -> dict[str, str | int]:
        """Return the settings that ask for it."""
        if self.every > 1:
            return {"gradient_checkpointing": "layers", "gradient_checkpointing_every": self.every}
        return {"gradient_checkpointing": "full" if self.every else "off"}

    def __str__(self) -> str:
        return f"one layer in {self.every}" if self.every > 1 else "full" if self.every else "off"


DEGREES = tuple(Checkpointing(every) for every in (0, 4, 3, 2, 1))
"""From the least to the most; what `auto` goes through."""


def degrees_beyond(checkpointing: Checkpointing) -> tuple[Checkpointing, ...]:
    """Return the degrees that compute more again than this one."""
    share = 1 / checkpointing.every if checkpointing.every else 0.0
    return tuple(degree for degree in DEGREES if degree.every and 1 / degree.every > share)


def kept_at_the_end(kept: Sequence[int], inputs: int, checkpointing: Checkpointing) -> int:
    """Return the bytes that layers hold at the end of the forward pass.

    Args:
        kept: What each layer would keep.
        inputs: What goes into a layer.
        checkpointing: Which of them keep that alone.
    """
    return sum(_held(kept, inputs, checkpointing))


def kept_at_most_in_backward(kept: Sequence[int], inputs: int, checkpointing: Checkpointing) -> int:
    """Return the most bytes that layers hold while the backward pass goes through them: the layers before, and all of the one it is in."""
    held = _held(kept, inputs, checkpointing)
    before, most = 0, 0
    for layer, whole in enumerate(kept):
        own = whole if held[layer] == whole else whole + held[layer]
        most = max(most, before + own)
        before += held[layer]
    return most


def _held(kept: Sequence[int], inputs: int, checkpointing: Checkpointing) -> list[int]:
    return [inputs if inputs < whole and checkpointing.recomputes(layer, len(kept)) else whole for layer, whole in enumerate(kept)]
