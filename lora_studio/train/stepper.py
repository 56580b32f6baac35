"""One optimizer step: micro-batches added up, looked at, applied or dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_studio.core.errors import InputError
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.kernels.batches import Batch
from lora_studio.kernels.conduct import Conduct
from lora_studio.kernels.head import SelectedHead
from lora_studio.train.faults import TooLargeError, is_out_of_memory
from lora_studio.train.loss_scale import LossScale
from lora_studio.train.precision import Precision
from lora_studio.train.ranks import Ranks

_SEED_STRIDE = 1_000_003
_MICRO_STRIDE = 8_191
_CLIP_EPSILON = 1e-6


@dataclass(frozen=True)
class StepOutcome:
    """What came of a step.

    Attributes:
        loss: Mean over the step's trained tokens.
        grad_norm: Of all gradients together, before clipping.
        skipped: Loss or gradient was not finite: the adapter did not move.
        loss_scale: By how much the loss is scaled for the next step; 1 where it is not.
    """

    loss: float
    grad_norm: float
    skipped: bool
    loss_scale: float = 1.0


class Stepper:
    """Takes optimizer steps over the adapter's parameters alone.

    The gradient is of (sum of token losses ÷ the step's trained tokens), whatever the micro-batches are, so that splitting a step
    changes nothing but rounding. Nothing here waits for the device but `read`: whether a step is taken the device decides itself.
    """

    def __init__(self, model: PeftModel, settings: TrainingSettings, precision: Precision, ranks: Ranks | None = None) -> None:
        self.model = model
        self.precision = precision
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self.parameters:
            raise InputError("Nothing would be trained.", "Choose target modules.", "adapter.target_modules")
        self._settings = settings
        self._ranks = ranks or Ranks()
        self.optimizer: Any = torch.optim.AdamW(
            self.parameters.values(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.loss_scale = LossScale(precision.device) if precision.compute == torch.float16 else None
        self._head = SelectedHead(model)
        self._loss: Tensor | None = None
        self._figures: list[Tensor] = []

    @property
    def padding_free(self) -> bool:
        """Whether the model takes rows laid end to end on a processor."""
        return self._head.padding_free

    @property
    def conduct(self) -> Conduct:
        """How the model takes rows."""
        return self._head.conduct

    def accumulate(self, batch: Batch, trained_tokens: float, seed: int) -> None:
        """Add one micro-batch's gradient.

        Args:
            batch: The micro-batch.
            trained_tokens: Trained tokens of the whole step; infinitely many let the micro-batch count nothing.
            seed: Of this micro-batch's dropout, from `micro_batch_seed`.

        Raises:
            TooLargeError: The device is out of memory; what was added since the last step is dropped.
        """
        if not len(batch.targets):
            return
        torch.manual_seed(seed)
        loss = None
        try:
            loss = self._gradient_of(batch, trained_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if loss is None:  # past the handler: the error held on to all that the passes had made
            self.zero_grad()
            raise TooLargeError(len(batch.counts), batch.width)
        self._loss = loss if self._loss is None else self._loss + loss

    def _gradient_of(self, batch: Batch, trained_tokens: float) -> Tensor:
        """Take one micro-batch forwards and backwards; give its loss."""
        batch = batch.to(self.precision.device)
        with self._head as head:
            with self.precision.autocast():
                loss = head.loss_sum(batch) / trained_tokens
            (loss if self.loss_scale is None else loss * self.loss_scale.value).backward()
        return loss.detach()

    def step(self, learning_rate: float) -> None:
        """Apply what was added, unless it is not finite, and start anew; what came of it is for `read`.

        A number that is not finite never reaches the adapter or the optimizer's state.
        """
        self._loss = self._ranks.add_gradients(list(self.parameters.values()), self._loss)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in self.parameters.values() if parameter.grad is not None])
        divisor = torch.ones((), device=norm.device) if self.loss_scale is None else self.loss_scale.value
        norm = norm.float() / divisor
        loss = norm.new_full((), math.nan) if self._loss is None else self._loss
        unfit = ~(loss.isfinite() & norm.isfinite())
        if self._settings.max_grad_norm > 0:  # as `clip_grad_norm_` does, within the same pass over the gradients
            divisor = divisor * ((norm + _CLIP_EPSILON) / self._settings.max_grad_norm).clamp(min=1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.grad_scale, self.optimizer.found_inf = divisor, unfit.float()
        self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(unfit)
        scale = torch.ones_like(norm) if self.loss_scale is None else self.loss_scale.value
        self._figures.append(torch.stack([loss, norm, unfit.float(), scale]))
        self.zero_grad()

    def post(self) -> Posted:
        """Begin to bring the outcomes since last time from the device; `Posted.read` has them."""
        posted = Posted(self._figures)
        self._figures = []
        return posted

    def zero_grad(self) -> None:
        """Forget the micro-batches added since the last step."""
        self.optimizer.zero_grad(set_to_none=True)
        self._loss = None


class Posted:
    """Outcomes of steps on their way from the device: a copy into pinned memory that nobody waits for until it is read."""

    def __init__(self, figures: list[Tensor]) -> None:
        """Send off figures, each (4,) as `Stepper.finish` makes them."""
        self._figures = torch.stack(figures) if figures else torch.empty(0, 4)
        self._arrived: torch.cuda.Event | None = None
        if self._figures.is_cuda:
            held = torch.empty(self._figures.shape, pin_memory=True)
            self._figures = held.copy_(self._figures, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[StepOutcome]:
        """Return the outcomes in the order of their steps; waits until they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        rows: list[list[float]] = self._figures.tolist()
        return [StepOutcome(loss, norm, bool(unfit), scale) for loss, norm, unfit, scale in rows]


def micro_batch_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return the random seed of one micro-batch: to resume is to name a step, no random state is carried over."""
    return (seed * _SEED_STRIDE + step * _MICRO_STRIDE + micro_batch) % (1 << 63)
