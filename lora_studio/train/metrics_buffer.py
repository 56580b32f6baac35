"""Steps as they are taken, timed, and told once their figures have come from the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import psutil
import torch

from lora_studio.core.events import Step
from lora_studio.data.batching.plan import StepBatch
from lora_studio.train.stepper import Posted, StepOutcome


@dataclass(frozen=True)
class PendingStep:
    """A step whose outcome is not known yet.

    Attributes:
        step: Steps taken, itself included.
        learning_rate: What it was taken with.
        batch: What it learned from.
        tokens: Tokens gone through since the run began.
        trained_tokens: Trained tokens gone through since then.
        clock: How long it took.
        peak_memory: Bytes.
        utilization: Gives the share of the device's peak that so many seconds come to.
    """

    step: int
    learning_rate: float
    batch: StepBatch
    tokens: int
    trained_tokens: int
    clock: StepClock
    peak_memory: int
    utilization: Callable[[float], float | None]

    def to_event(self, outcome: StepOutcome) -> Step:
        """Return the event of the step, its outcome being here."""
        seconds = self.clock.spans()
        whole = sum(seconds)
        return Step(
            step=self.step,
            loss=outcome.loss,
            learning_rate=self.learning_rate,
            grad_norm=outcome.grad_norm,
            tokens=self.tokens,
            trained_tokens=self.trained_tokens,
            tokens_per_second=self.batch.tokens / max(whole, 1e-9),
            epoch=self.batch.epoch,
            seconds=whole,
            utilization=self.utilization(whole),
            micro_batch_seconds=max(seconds),
            peak_memory=self.peak_memory,
            skipped=outcome.skipped,
        )


class StepClock:
    """Measures the pieces of one step on their device; on a graphics card by marks among its work, which hold nothing up."""

    def __init__(self, device: torch.device) -> None:
        self._on_card = device.type == "cuda"
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: list[float] = []

    @contextlib.contextmanager
    def piece(self) -> Generator[None]:
        """Measure a block."""
        if self._on_card:
            marks = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            marks[0].record()
            yield
            marks[1].record()
            self._marks.append(marks)
            return
        began = time.perf_counter()
        yield
        self._seconds.append(time.perf_counter() - began)

    def spans(self) -> list[float]:
        """Return the seconds of each piece; on a graphics card they must be over."""
        return self._seconds + [began.elapsed_time(ended) / 1000 for began, ended in self._marks]


class MetricsBuffer:
    """Holds steps until it is time to tell of them.

    On a graphics card that is once the next step is under way, so that reading figures never leaves the card without work. A processor
    has done its work when it answers: there, figures are read at once.
    """

    def __init__(self, logging_steps: int, late: bool) -> None:
        """Tell of every `logging_steps` steps; `late` reads their figures a step later."""
        self._every = logging_steps
        self._late = late
        self._taken: list[PendingStep] = []
        self._under_way: list[tuple[list[PendingStep], Posted]] = []

    def note(self, taken: PendingStep) -> None:
        """Take in a step whose figures the next `post` sends off."""
        self._taken.append(taken)

    @property
    def due(self) -> bool:
        """Whether the step noted last ends an interval."""
        return bool(self._taken) and self._taken[-1].step % self._every == 0

    def post(self, posted: Posted) -> None:
        """Take in the figures, on their way, of all steps noted since last time."""
        self._under_way.append((self._taken, posted))
        self._taken = []

    def read(self, everything: bool = False) -> list[tuple[PendingStep, StepOutcome]]:
        """Return the steps whose figures have come, each with its outcome; with `everything`, wait for the last ones too."""
        kept = 0 if everything or not self._late else 1
        ready = self._under_way[: max(0, len(self._under_way) - kept)]
        del self._under_way[: len(ready)]
        return [pair for taken, posted in ready for pair in zip(taken, posted.read(), strict=True)]

    def is_told(self, step: int) -> bool:
        """Return whether a step is one that every reader hears of."""
        return step % self._every == 0

    def drop(self) -> None:
        """Forget what was not read."""
        self._taken, self._under_way = [], []


def peak_memory(device: torch.device) -> int:
    """Return a card's largest allocation since the step began, or this process's resident set, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return int(psutil.Process().memory_info().rss)
