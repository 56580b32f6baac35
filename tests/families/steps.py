"""Steps of ours beside those of plain transformers and PEFT: a row at a time, unpadded, whole logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from peft import PeftModel

from lora_studio.core.config import RunConfig
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.batching.plan import StepPlan
from lora_studio.data.token_rows import Rows, TokenRow
from lora_studio.kernels.batches import make_batch, trained_count
from lora_studio.train.micro_batcher import MicroBatcher
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import Stepper

CPU = torch.device("cpu")
Figures = tuple[float, float]
"""Loss and gradient norm of a step."""


class Held(Rows):
    """Rows in memory."""

    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> TokenRow:
        return self._rows[row]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([row.input_ids.size for row in self._rows])

    @property
    def trained_counts(self) -> np.ndarray:
        return np.array([trained_count(row) for row in self._rows])

    def fingerprint(self) -> str:
        return "held"


def our_steps(model: PeftModel, steps: Sequence[Sequence[TokenRow]], learning_rate: float = 1e-3) -> list[Figures]:
    """Take steps over rows as a run does on a processor."""
    stepper = Stepper(model, TrainingSettings(), Precision(CPU, torch.float32))
    for rows in steps:
        held = Held(rows)
        config = RunConfig().replace({"training.per_device_train_batch_size": len(rows)})
        pieces = MicroBatcher(held, config, CPU, padding_free=stepper.padding_free, pads=stepper.conduct.pads)
        step = StepPlan(held.lengths, held.trained_counts, config.training).step(0)
        for piece in pieces.of(step):
            stepper.accumulate(make_batch(piece, padding_free=pieces.padding_free), step.trained_tokens, 0)
        stepper.step(learning_rate)
    return [(outcome.loss, outcome.grad_norm) for outcome in stepper.post().read()]


def plain_steps(model: PeftModel, steps: Sequence[Sequence[TokenRow]], learning_rate: float = 1e-3) -> list[Figures]:
    """Take the same steps with nothing of ours."""
    settings = TrainingSettings()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=learning_rate, betas=(settings.adam_beta1, settings.adam_beta2), weight_decay=settings.weight_decay
    )
    figures = []
    for rows in steps:
        optimizer.zero_grad()
        tokens = sum(map(trained_count, rows))
        loss = sum(_backward(model, row, tokens) for row in rows)
        norm = torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        figures.append((loss, float(norm)))
    return figures


def _backward(model: PeftModel, row: TokenRow, tokens: int) -> float:
    ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(row.trained), ids[0], -100)[1:]
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=-100) / tokens
    loss.backward()
    return float(loss.detach())
