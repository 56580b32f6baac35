"""The processes that train one run together, as its loop sees them: this is the plainest case, one process alone.

Every rank goes through the same loop over the same plan, so that all come to the same places; what only one may do (write, sample) the
first does, and what all must know alike (requests, want of memory, how far the run is) they agree upon at these places.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_studio.core.control import Control
from lora_studio.core.errors import StudioError
from lora_studio.core.events import RunEvent
from lora_studio.train.faults import TooLargeError

Made = TypeVar("Made")


class Ranks:
    """One process that trains alone: it agrees with itself.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        sharded: Whether each holds a part of the base model only, so that all must take part in every pass.
        backend: What carries gradients between them; empty for one.
        too_large: The largest micro-batch that did not fit any of them when last agreed upon.
    """

    rank = 0
    size = 1
    sharded = False
    backend = ""

    def __init__(self) -> None:
        self.too_large: TooLargeError | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that owns the run's folder and speaks for all."""
        return self.rank == 0

    def control(self, own: Control) -> Control:
        """Return the requests that all ranks look at, of those that reach this process."""
        return own

    def agree(self, too_large: TooLargeError | None, overdue: bool) -> TooLargeError | None:
        """Let all ranks know what reached any of them: requests, `overdue` of the first, and a micro-batch that did not fit."""
        self.too_large = too_large
        return too_large

    def overdue(self, here: bool) -> bool:
        """Return whether a checkpoint is overdue: by this process's clock alone, or as all agreed upon."""
        return here

    def on_main_process(self, work: Callable[[], Generator[RunEvent, None, Made]]) -> Generator[RunEvent, None, Made]:
        """Let the first rank do some work while the others wait; all return what it made, which must be JSON."""
        return (yield from work())

    def main_process_first(self, work: Callable[[], Generator[RunEvent, None, Made]]) -> Generator[RunEvent, None, Made]:
        """Let one rank of each machine do some work, then the others there, which find what it left; each returns its own."""
        return (yield from work())

    def broadcast_object(self, document: Any) -> Any:
        """Return every rank the first one's JSON document."""
        return document

    def all_reduce(self, *numbers: float) -> list[float]:
        """Add up numbers over all ranks."""
        return list(numbers)

    def add_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor | None) -> Tensor | None:
        """Add up the gradients and the loss, () or None, over all ranks, in place; return the loss."""
        return loss

    def broadcast_parameters(self, parameters: Mapping[str, nn.Parameter], optimizer: Any) -> None:
        """Send the first rank's weights and moments to every other."""

    def take_device(self, device: torch.device, sharded: bool) -> None:
        """Compute on `device` from now on, all with the whole base model or, sharded, with a part each."""

    def shard(self, model: PeftModel, device: torch.device) -> None:
        """Keep this rank's part of the base model and let the rest go, where it is to be sharded."""

    def refuse_difference(self, facts: Mapping[str, str]) -> None:
        """Refuse to train where ranks differ in what must be the same.

        Args:
            facts: What it is called, and what it is here.

        Raises:
            InputError: A rank has another one than the first.
        """

    def lost(self, error: BaseException) -> StudioError | None:
        """Tell an error that means that another rank is gone; None for any other."""
        return None
