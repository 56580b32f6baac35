"""Progress on standard error: one line drawn over for a person, a line now and then for a log file."""

from __future__ import annotations

from lora_studio.cli.console import Console
from lora_studio.cli.units import in_bytes, in_time
from lora_studio.core.events import CheckpointSaved, Evaluation, Memory, Notice, Paused, Phase, RunEvent, RunResumed, RunStarted, Step
from lora_studio.core.history import RunHistory

_BAR = 24
_LOG_PARTS = 10


class ProgressPrinter:
    """Draws what a job's events say.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._history = RunHistory()
        self._drawn = False
        self._said = ""

    def show(self, event: RunEvent) -> None:
        """Take in the next event."""
        self._history.add(event)
        match event:
            case Step() | Memory():
                self._show_step(event)
            case Phase():
                self._show_phase(event)
            case Notice():
                self.line(f"{event.level}: {event.message}" + (f" {event.hint}" if event.hint else ""))
            case RunStarted() | RunResumed() | Evaluation() | CheckpointSaved() | Paused():
                self.line(self._history.log[-1].text)
            case _:
                self.clear()

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        self._console.note(text)

    def clear(self) -> None:
        """Wipe the line that is drawn over."""
        if self._drawn:
            self._console.notes.write("\r\x1b[K")
            self._console.notes.flush()
            self._drawn = False

    def _draw(self, text: str) -> None:
        self._console.notes.write(f"\r\x1b[K{text[: self._console.width - 1]}")
        self._console.notes.flush()
        self._drawn = True

    def _show_step(self, event: Step | Memory) -> None:
        history = self._history
        if not history.loss or history.phase is not None:
            return
        if self._console.lively:
            self._draw(self._step_line())
        elif isinstance(event, Step) and _is_milestone(event.step, history.total_steps):
            self._console.note(self._step_line(bar=False))

    def _step_line(self, *, bar: bool = True) -> str:
        history = self._history
        total = max(history.total_steps, history.step, 1)
        parts = [f"step {history.step}/{total}", f"loss {history.loss.y[-1]:.4f}", f"{history.tokens_per_second.y[-1]:,.0f} tokens/s"]
        if history.utilization:
            parts[-1] += f" ({history.utilization.y[-1]:.0%} of peak)"
        used = history.memory.get("cuda_allocated") or history.memory.get("resident")
        if used:
            parts.append(in_bytes(used.y[-1]))
        if history.seconds_left:
            parts.append(f"{in_time(history.seconds_left)} left")
        return (f"{_bar(history.step / total)} " if bar else "") + " · ".join(parts)

    def _show_phase(self, event: Phase) -> None:
        said = event.message or event.name.capitalize()
        if not self._console.lively:
            if said != self._said:
                self._console.note(f"{said} …")
            self._said = said
            return
        if event.done is not None and event.total:
            self._draw(f"{_bar(event.done / event.total)} {said}: {_amount(event.done, event.unit)} of {_amount(event.total, event.unit)}")
        else:
            self._draw(f"{said} …")


def _bar(share: float) -> str:
    full = round(min(1.0, max(0.0, share)) * _BAR)
    return f"{'━' * full}{'─' * (_BAR - full)} {share:4.0%}"


def _amount(count: float, unit: str) -> str:
    return in_bytes(count) if unit == "bytes" else f"{count:,.0f} {unit}".rstrip()


def _is_milestone(step: int, total: int) -> bool:
    """Return whether a step is the first, the last or ends a tenth of the run."""
    part = max(1, total // _LOG_PARTS)
    return step in (1, total) or step % part == 0
