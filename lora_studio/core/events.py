"""What a task tells while it runs: plain numbers and strings, JSON both ways, told apart by `event`.

A task yields events; its host stamps `seq`, `time` and `attempt`, writes them to the run's `events.jsonl` and hands
them to whoever watches. Exactly one last event (`run_finished`, `run_stopped` or `run_failed`) ends an attempt; the
host writes it, not the task. An attempt without one was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Level = Literal["info", "warning", "error"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    seq: int = 0
    time: float = 0.0  # seconds since the epoch
    attempt: int = 1
    step: int = 0  # optimizer steps taken so far


class RunStarted(_Event):
    """The first step is about to be taken, from step 0."""

    event: Literal["run_started"] = "run_started"
    total_steps: int
    train_rows: int
    eval_rows: int
    trainable_parameters: int
    all_parameters: int
    device: str
    compute_dtype: str
    peak_flops: float | None = None  # operations a second of a matrix product in that dtype, measured on this device


class RunResumed(_Event):
    """A new attempt goes on at `from_step`: a replay drops later steps of earlier attempts."""

    event: Literal["run_resumed"] = "run_resumed"
    from_step: int
    total_steps: int


class Phase(_Event):
    """What the task is doing, and how far it is where that is known.

    `name` is one word of a small set (`loading`, `preparing`, `training`, `evaluating`, `sampling`, `saving`,
    `downloading`, `uploading`, `converting`, `merging`, `checking`); `done` and `total` are in `unit` ("bytes", "rows", "tensors").
    """

    event: Literal["phase"] = "phase"
    name: str
    message: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""


class Step(_Event):
    """One optimizer step. `loss` is the mean over the trained tokens of that step's global batch."""

    event: Literal["step"] = "step"
    loss: float
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # cumulative, without padding
    trained_tokens: int  # cumulative
    tokens_per_second: float
    epoch: float
    seconds: float  # computing this step, pauses left out
    micro_batch_seconds: float = 0.0  # its longest micro-batch: how long a stop takes at most
    utilization: float | None = None  # share of `peak_flops` that the step's matrix products reached, 0 to 1
    peak_memory: int = 0  # bytes: CUDA's peak allocation in the step, or the resident set on a CPU
    skipped: bool = False  # the loss or a gradient was not finite: the adapter did not move


class Evaluation(_Event):
    """Loss over the held-out rows: the mean over their trained tokens."""

    event: Literal["evaluation"] = "evaluation"
    loss: float
    rows: int
    trained_tokens: int
    seconds: float


class Sample(_Event):
    """One answer to one held-out prompt. `label` is "before", "after" or "step"; `row` counts held-out rows from 0."""

    event: Literal["sample"] = "sample"
    label: Literal["before", "after", "step"]
    row: int
    prompt: str
    reference: str
    text: str


class Memory(_Event):
    """A look at memory, in bytes, four times a second. A field is None where the machine has no such thing."""

    event: Literal["memory"] = "memory"
    resident: int  # this process
    cuda_allocated: int | None = None
    cuda_reserved: int | None = None
    device_used: int | None = None
    device_total: int | None = None
    device_utilization: float | None = None  # percent
    device_temperature: float | None = None  # degrees Celsius


class CheckpointSaved(_Event):
    """A checkpoint has its name: it is whole."""

    event: Literal["checkpoint_saved"] = "checkpoint_saved"
    path: str  # relative to the run folder
    bytes: int
    seconds: float


class Paused(_Event):
    """The task waits, its work saved; the next `phase` or `step` says that it goes on."""

    event: Literal["paused"] = "paused"


class Notice(_Event):
    """Something a person should know that ends nothing."""

    event: Literal["notice"] = "notice"
    level: Level = "info"
    code: str
    message: str
    hint: str = ""


class RunFinished(_Event):
    """The task is done; `result` is what it was for, as JSON."""

    event: Literal["run_finished"] = "run_finished"
    result: dict[str, Any] = Field(default_factory=dict)


class RunStopped(_Event):
    """A person ended the task; what was to be saved is."""

    event: Literal["run_stopped"] = "run_stopped"
    result: dict[str, Any] = Field(default_factory=dict)


class RunFailed(_Event):
    """The task ended with an error."""

    event: Literal["run_failed"] = "run_failed"
    message: str
    hint: str = ""
    field: str = ""
    details: str = ""  # the traceback, for a person to copy; empty for errors we foresaw
    exit_status: int = 1


RunEvent = Annotated[
    RunStarted
    | RunResumed
    | Phase
    | Step
    | Evaluation
    | Sample
    | Memory
    | CheckpointSaved
    | Paused
    | Notice
    | RunFinished
    | RunStopped
    | RunFailed,
    Field(discriminator="event"),
]
LastEvent = RunFinished | RunStopped | RunFailed
_ADAPTER: TypeAdapter[RunEvent] = TypeAdapter(RunEvent)


def event_to_json(event: RunEvent) -> str:
    """Return an event as one line of JSON without its line end."""
    return event.model_dump_json()


def event_from_json(line: str | bytes) -> RunEvent:
    """Read one line of JSON back.

    Raises:
        ValueError: The line is no event.
    """
    return _ADAPTER.validate_json(line)


def read_events(lines: Iterable[str | bytes]) -> Iterator[RunEvent]:
    """Read events from lines; a torn or foreign line is passed over, so a killed writer costs at most its last event."""
    for line in lines:
        try:
            yield event_from_json(line)
        except ValueError:
            continue
