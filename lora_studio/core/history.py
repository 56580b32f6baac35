"""A run's history as columns of numbers: every curve, table and log line is a replay of its events.

`RunHistory.add` folds one event in amortised constant time, so a live run and one opened from disk look the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_studio.core.events import (
    CheckpointSaved,
    Evaluation,
    LastEvent,
    Level,
    Memory,
    Notice,
    Paused,
    Phase,
    RunEvent,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    Sample,
    Step,
    read_events,
)

HistoryState = Literal["new", "running", "paused", "finished", "stopped", "failed"]
LogKind = Literal["progress", "samples", "checkpoints", "warnings"]

SMOOTHING = 0.9
_PACE = 0.9
_MB = 1e6


class Curve:
    """Points of one curve in two columns of 64-bit floats, x rising.

    Attributes:
        x: Optimizer steps, or seconds since the run began.
        y: Values.
    """

    __slots__ = ("x", "y")

    def __init__(self) -> None:
        self.x: array[float] = array("d")
        self.y: array[float] = array("d")

    def __len__(self) -> int:
        return len(self.x)

    def append(self, x: float, y: float) -> None:
        """Add a point at the end."""
        self.x.append(x)
        self.y.append(y)

    def drop_after(self, x: float) -> None:
        """Forget the points right of `x`."""
        keep = bisect_right(self.x, x)
        del self.x[keep:], self.y[keep:]

    @property
    def last(self) -> float | None:
        """The last value, None while there is none."""
        return self.y[-1] if self.y else None


class MovingAverage:
    """Exponential moving average with the bias of its start corrected, as Adam corrects its moments.

    After n values, average_n = (1 - β) · Σ β^(n-i) · x_i / (1 - β^n). Values that are not finite are passed over.
    """

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float) -> float:
        """Take a value in and give the average; NaN before the first finite value."""
        if abs(value) < float("inf"):
            self._sum = self._beta * self._sum + (1 - self._beta) * value
            self._weight = self._beta * self._weight + (1 - self._beta)
        return self.value

    @property
    def value(self) -> float:
        """The average so far; NaN before the first finite value."""
        return self._sum / self._weight if self._weight else float("nan")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a run's log."""

    time: float  # seconds since the epoch
    level: Level
    text: str
    kind: LogKind = "progress"


class RunHistory:
    """What happened in one run.

    Attributes:
        loss: Loss of each step, over steps.
        smoothed_loss: Its moving average (`SMOOTHING`), over steps.
        evaluation: Evaluation loss, over steps.
        learning_rate: Over steps.
        grad_norm: Before clipping, over steps.
        tokens_per_second: Over steps.
        utilization: Share of the device's measured matrix product that steps reached, 0 to 1, over those that say so.
        peak_memory: Peak in each step in bytes, over steps.
        memory: Curves over seconds by name (`resident, cuda_allocated, cuda_reserved, device_used, device_utilization`,
            the last in percent, the others in bytes); only those the machine has.
        device_total: The device's memory in bytes; 0 without one.
        samples: Answers to held-out prompts, in order.
        checkpoints: Checkpoints saved, in order; those of dropped steps are left out.
        log: Lines for the log view.
        state: What the events say; a run whose writer died still reads `running` here (ask `RunFolder.state`).
        step: Optimizer steps taken.
        total_steps: Steps planned; 0 until known.
        epoch: Epochs gone through.
        tokens: Tokens seen, without padding.
        trained_tokens: Tokens trained on.
        started: The `run_started` event, None until it came.
        phase: The phase under way, None when there is none.
        last_event: How the latest attempt ended, None while it has not.
        began: Time of the first event in seconds since the epoch; 0 before it.
        elapsed: Seconds of run time, gaps between attempts left out.
        count: Events folded in.
    """

    def __init__(self) -> None:
        self.loss = Curve()
        self.smoothed_loss = Curve()
        self.evaluation = Curve()
        self.learning_rate = Curve()
        self.grad_norm = Curve()
        self.tokens_per_second = Curve()
        self.utilization = Curve()
        self.peak_memory = Curve()
        self.memory: dict[str, Curve] = {}
        self.device_total = 0
        self.samples: list[Sample] = []
        self.checkpoints: list[CheckpointSaved] = []
        self.log: list[LogLine] = []
        self.state: HistoryState = "new"
        self.step = 0
        self.total_steps = 0
        self.epoch = 0.0
        self.tokens = 0
        self.trained_tokens = 0
        self.started: RunStarted | None = None
        self.phase: Phase | None = None
        self.last_event: LastEvent | None = None
        self.began = 0.0
        self.elapsed = 0.0
        self.count = 0
        self._attempt = 0
        self._clock = 0.0  # what to take off an event's time to get seconds of run time
        self._average = MovingAverage(SMOOTHING)
        self._pace = MovingAverage(_PACE)

    @classmethod
    def replay(cls, path: Path) -> RunHistory:
        """Read a run's `events.jsonl`; a missing file is an empty history, torn lines are passed over."""
        history = cls()
        if path.is_file():
            with path.open("rb") as file:
                for event in read_events(file):
                    history.add(event)
        return history

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the run time still to come, by the pace of the latest steps; None while it is not known."""
        if not self.total_steps or not self.loss or self.last_event is not None:
            return None
        return max(0, self.total_steps - self.step) * self._pace.value

    @property
    def step_curves(self) -> tuple[Curve, ...]:
        """The curves over steps."""
        return (
            self.loss,
            self.smoothed_loss,
            self.evaluation,
            self.learning_rate,
            self.grad_norm,
            self.tokens_per_second,
            self.utilization,
            self.peak_memory,
        )

    def add(self, event: RunEvent) -> None:
        """Fold the next event in."""
        self.count += 1
        self._follow_clock(event)
        match event:
            case Step():
                self._add_step(event)
            case Memory():
                self._add_memory(event)
            case RunStarted() | RunResumed():
                self._begin(event)
            case RunFinished() | RunStopped() | RunFailed():
                self._end(event)
            case _:
                self._add_other(event)

    def _follow_clock(self, event: RunEvent) -> None:
        if event.attempt != self._attempt:
            self._attempt = event.attempt
            self._clock = event.time - self.elapsed
            self.began = self.began or event.time
            self.last_event = None
            self.state = "running"
        self.elapsed = max(self.elapsed, event.time - self._clock)

    def _begin(self, event: RunStarted | RunResumed) -> None:
        self.state = "running"
        self.phase = None
        self.total_steps = event.total_steps
        if isinstance(event, RunStarted):
            self.started = event
            self._drop_after(0)
            self._note(
                event,
                "info",
                f"Started: {event.total_steps} steps over {event.train_rows} rows on {event.device}, "
                f"{event.trainable_parameters:,} trainable parameters.",
            )
        else:
            self._drop_after(event.from_step)
            self._note(event, "info", f"Goes on after step {event.from_step} of {event.total_steps}.")

    def _drop_after(self, step: int) -> None:
        """Forget what earlier attempts did after `step`: it is done again."""
        for curve in self.step_curves:
            curve.drop_after(step)
        self.checkpoints = [saved for saved in self.checkpoints if saved.step <= step]
        self.samples = [sample for sample in self.samples if sample.step <= step and sample.label != "after"]
        self.step = step
        self._average = MovingAverage(SMOOTHING)
        for loss in self.loss.y:
            self._average.add(loss)

    def _add_step(self, event: Step) -> None:
        self.state, self.phase = "running", None
        self.step, self.epoch = event.step, event.epoch
        self.tokens, self.trained_tokens = event.tokens, event.trained_tokens
        self._pace.add(event.seconds)
        self.loss.append(event.step, event.loss)
        self.smoothed_loss.append(event.step, self._average.add(event.loss))
        self.learning_rate.append(event.step, event.learning_rate)
        self.grad_norm.append(event.step, event.grad_norm)
        self.tokens_per_second.append(event.step, event.tokens_per_second)
        if event.utilization is not None:
            self.utilization.append(event.step, event.utilization)
        self.peak_memory.append(event.step, event.peak_memory)
        if event.skipped:
            self._note(event, "warning", f"Step {event.step} was skipped: its loss or gradient was not finite.", "warnings")

    def _add_memory(self, event: Memory) -> None:
        seconds = event.time - self._clock
        self.device_total = event.device_total or self.device_total
        for name in ("resident", "cuda_allocated", "cuda_reserved", "device_used", "device_utilization"):
            value = getattr(event, name)
            if value is not None:
                self.memory.setdefault(name, Curve()).append(seconds, value)

    def _add_other(self, event: Phase | Evaluation | Sample | CheckpointSaved | Paused | Notice | RunEvent) -> None:
        match event:
            case Evaluation():
                self._note(event, "info", self._told_evaluation(event))
                self.evaluation.append(event.step, event.loss)
            case Sample():
                self.samples.append(event)
                self._note(event, "info", f"{event.label}: “{_one_line(event.prompt, 48)}” → {_one_line(event.text, 160)}", "samples")
            case CheckpointSaved():
                self.checkpoints.append(event)
                name = event.path.rstrip("/").rpartition("/")[2]
                self._note(event, "info", f"Checkpoint {name} saved, {event.bytes / _MB:.1f} MB in {event.seconds:.2f} s", "checkpoints")
            case Notice():
                self._note(event, event.level, f"{event.message} {event.hint}".strip(), "warnings" if event.level != "info" else "progress")
            case Paused():
                self.state = "paused"
                self._note(event, "info", f"Paused at step {event.step}.")
            case Phase():
                self._add_phase(event)
            case _:
                raise TypeError(f"no place for {event.event} in a history")

    def _add_phase(self, event: Phase) -> None:
        self.state = "running"
        if (self.phase is None or self.phase.name != event.name) and event.message:
            self._note(event, "info", event.message)
        self.phase = event

    def _end(self, event: LastEvent) -> None:
        self.last_event, self.phase = event, None
        match event:
            case RunFinished():
                self.state = "finished"
                self._note(event, "info", f"Finished after {self.step} steps.")
            case RunStopped():
                self.state = "stopped"
                self._note(event, "info", f"Stopped at step {self.step}.")
            case RunFailed():
                self.state = "failed"
                self._note(event, "error", f"{event.message} {event.hint}".strip(), "warnings")

    def _told_evaluation(self, event: Evaluation) -> str:
        earlier = self.evaluation.y
        told = f"Evaluation at step {event.step}: loss {event.loss:.3f}"
        if not earlier:
            return told
        return f"{told} ({event.loss - earlier[-1]:+.3f})" + (", best so far" if event.loss < min(earlier) else "")

    def _note(self, event: RunEvent, level: Level, text: str, kind: LogKind = "progress") -> None:
        self.log.append(LogLine(event.time, level, text, kind))


def _one_line(text: str, most: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1].rstrip() + "…"
