"""The step plan: which rows a step takes and how many trained tokens they hold, for every step, in advance.

It is a pure function of (data fingerprint, seed, epoch, global batch). Micro-batches, ranks and halvings for want of
memory only slice a step, so to resume is to name one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.batching.ordering import Indices, shuffled

_LARGEST_MEGA_BATCH = 50  # batches sorted together: enough for little padding, few enough to keep the order random
_FEWEST_MEGA_BATCHES = 4
_KEPT_EPOCHS = 2


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step learns from.

    Attributes:
        rows: Row numbers, longest row first.
        trained_tokens: Trained tokens of all these rows: what the sum of their losses is divided by.
        tokens: Tokens of all these rows, without padding.
        epoch: Epochs gone through once this step is taken, such as 0.5.
    """

    rows: tuple[int, ...]
    trained_tokens: int
    tokens: int
    epoch: float


class StepPlan:
    """All steps of a run, each computed when asked for."""

    def __init__(
        self,
        lengths: ArrayLike,
        trained_counts: ArrayLike,
        training: TrainingSettings,
        fingerprint: str = "",
    ) -> None:
        """Plan over rows given by their numbers of tokens and of trained tokens, each of shape (rows,).

        Raises:
            ValueError: There are no rows, or the two differ in length.
        """
        self._lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self._trained: NDArray[np.int64] = np.asarray(trained_counts, dtype=np.int64)
        if self._lengths.size == 0 or self._lengths.shape != self._trained.shape:
            raise ValueError("a step plan needs rows, each with its tokens and its trained tokens")
        self._training = training
        self._fingerprint = fingerprint
        self._epochs: OrderedDict[int, Indices] = OrderedDict()
        self.batch_rows = training.rows_per_step
        self.steps_per_epoch = math.ceil(self._lengths.size / self.batch_rows)
        by_epochs = math.ceil(round(training.num_train_epochs * self.steps_per_epoch, 9))
        self.total_steps = training.max_steps if training.max_steps > 0 else max(1, by_epochs)

    def step(self, number: int) -> StepBatch:
        """Return step `number`, counted from 0: after k steps are taken, the next one is `step(k)`.

        Raises:
            IndexError: The run has no such step.
        """
        if not 0 <= number < self.total_steps:
            raise IndexError(f"step {number} of {self.total_steps}")
        epoch, place = divmod(number, self.steps_per_epoch)
        rows = self._order(epoch)[place * self.batch_rows : (place + 1) * self.batch_rows]
        rows = rows[np.argsort(-self._lengths[rows], kind="stable")]
        return StepBatch(
            rows=tuple(rows.tolist()),
            trained_tokens=int(self._trained[rows].sum()),
            tokens=int(self._lengths[rows].sum()),
            epoch=(number + 1) / self.steps_per_epoch,
        )

    def _order(self, epoch: int) -> Indices:
        """Return every row once, in the order of this epoch's batches; the last epochs asked for are kept."""
        if epoch not in self._epochs:
            self._epochs[epoch] = self._new_order(epoch)
            while len(self._epochs) > _KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _new_order(self, epoch: int) -> Indices:
        count = self._lengths.size
        strategy = self._training.train_sampling_strategy
        if strategy == "sequential":
            return np.arange(count, dtype=np.int64)
        order = shuffled(count, self._fingerprint, self._training.seed, epoch, "rows")
        return order if strategy == "random" else self._grouped(order, epoch)

    def _grouped(self, order: Indices, epoch: int) -> Indices:
        """Sort mega-batches by length, then shuffle whole batches; a short batch stays last."""
        batch = self.batch_rows
        mega = batch * max(1, min(_LARGEST_MEGA_BATCH, self.steps_per_epoch // _FEWEST_MEGA_BATCHES))
        pieces: Sequence[Indices] = [order[start : start + mega] for start in range(0, order.size, mega)]
        by_length = np.concatenate([piece[np.argsort(-self._lengths[piece], kind="stable")] for piece in pieces])
        whole = order.size // batch
        batches = by_length[: whole * batch].reshape(whole, batch)
        return np.concatenate(
            [batches[shuffled(whole, self._fingerprint, self._training.seed, epoch, "batches")].ravel(), by_length[whole * batch :]]
        )
