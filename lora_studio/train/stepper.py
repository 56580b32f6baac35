"""One optimizer step: micro-batches added up, looked at, applied or dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.settings import TrainingSettings
from lora_studio.generate.batches import Batch
from lora_studio.generate.head import SelectedHead
from lora_studio.train.precision import Precision

_SEED_STRIDE = 1_000_003
_MICRO_STRIDE = 8_191
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "bad allocation")


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Attributes:
        loss: Mean over the step's trained tokens.
        grad_norm: Of all gradients together, before clipping.
        skipped: Loss or gradient was not finite: the adapter did not move.
    """

    loss: float
    grad_norm: float
    skipped: bool


class TooLargeError(Exception):
    """A micro-batch does not fit into the device's memory.

    Attributes:
        rows: Rows in it.
        width: Tokens of its longest row.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(f"{rows} rows of up to {width} tokens")
        self.rows = rows
        self.width = width


class Stepper:
    """Takes optimizer steps over the adapter's parameters alone.

    The gradient is of (sum of token losses ÷ the step's trained tokens), whatever the micro-batches are, so that splitting a step
    changes nothing but rounding.
    """

    def __init__(self, model: PeftModel, settings: TrainingSettings, precision: Precision) -> None:
        self.model = model
        self.precision = precision
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self.parameters:
            raise InputError("Nothing would be trained.", "Choose target modules.", "adapter.target_modules")
        self._settings = settings
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.learning_rate, betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.weight_decay, fused=True,
        )
        self.scaler = precision.scaler()
        self._head = SelectedHead(model)
        self._loss: Tensor | None = None

    def add(self, batch: Batch, trained_tokens: int, seed: int) -> None:
        """Add one micro-batch's gradient.

        Args:
            batch: The micro-batch.
            trained_tokens: Trained tokens of the whole step.
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
            self.drop()
            rows, width = batch.input_ids.shape
            raise TooLargeError(rows, width)
        self._loss = loss if self._loss is None else self._loss + loss

    def _gradient_of(self, batch: Batch, trained_tokens: int) -> Tensor:
        """Take one micro-batch forwards and backwards; give its loss."""
        batch = batch.to(self.precision.device)
        with self.precision.autocast(), self._head as head:
            loss = head.loss_sum(batch) / trained_tokens
        self.scaler.scale(loss).backward()
        return loss.detach()

    def finish(self, learning_rate: float) -> Outcome:
        """Apply what was added, unless it is not finite, and start anew.

        A number that is not finite never reaches the adapter or the optimizer's state.
        """
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        loss = math.nan if self._loss is None else float(self._loss)
        finite = math.isfinite(loss) and math.isfinite(float(norm))
        if finite:
            if self._settings.max_grad_norm > 0:
                nn.utils.clip_grads_with_norm_(self.parameters.values(), self._settings.max_grad_norm, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.drop()
        return Outcome(loss, float(norm), skipped=not finite)

    def drop(self) -> None:
        """Forget the micro-batches added since the last step."""
        self.optimizer.zero_grad(set_to_none=True)
        self._loss = None


def micro_batch_seed(seed: int, step: int, micro_batch: int) -> int:
    """Give the random seed of one micro-batch: to resume is to name a step, no random state is carried over."""
    return (seed * _SEED_STRIDE + step * _MICRO_STRIDE + micro_batch) % (1 << 63)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is a want of memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def out_of_memory(error: TooLargeError, ways: Sequence[str]) -> StudioError:
    """Tell a person that not even one row fits, and what would help.

    Args:
        error: What did not fit.
        ways: Changes of settings with their prices, as `lora.cures.priced_ways` gives them.
    """
    hint = "Each of these helps: " + "; ".join([*ways, "a smaller base model"]) + "."
    return StudioError(f"Out of memory on {error.rows} row of {error.width} tokens.", hint, "data.max_length")
