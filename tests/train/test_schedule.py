from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from lora_studio.core.training_settings import TrainingSettings
from lora_studio.train.schedule import lr_at


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("total", [1, 5, 40])
def test_rates_are_those_of_transformers_scheduler(kind: str, warmup: int, total: int) -> None:
    settings = TrainingSettings(learning_rate=3e-4, lr_scheduler_type=kind, warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total):
        assert lr_at(step, total, settings) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimizer.step()
        scheduler.step()
