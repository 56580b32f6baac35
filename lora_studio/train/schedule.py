"""The learning rate of each step: a pure function, with the values of transformers' schedulers of the same names."""

from __future__ import annotations

import math

from lora_studio.core.training_settings import TrainingSettings


def lr_at(step: int, total_steps: int, settings: TrainingSettings) -> float:
    """Return the learning rate that step number `step` (counted from 0) is taken with.

    Source: `transformers.optimization.get_{linear,cosine,constant}_schedule[_with_warmup]`.
    """
    return settings.learning_rate * _factor(step, total_steps, settings)


def _factor(step: int, total_steps: int, settings: TrainingSettings) -> float:
    kind, warmup = settings.lr_scheduler_type, settings.warmup_steps
    if kind == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if kind == "constant_with_warmup":
        return 1.0
    done = (step - warmup) / max(1, total_steps - warmup)
    if kind == "linear":
        return max(0.0, 1.0 - done)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
