"""Losses of a fixed seed, pinned for each architecture: a change that moves them is a change of what is learned.

`python -m tests.train.test_trajectory` writes them anew, for a change that is meant to.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.token_rows import TokenRow
from lora_studio.kernels.batches import make_batch, trained_count
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import Stepper, micro_batch_seed
from tests.tiny import ARCHITECTURES
from tests.train.helpers import adapted_model, token_rows

PINNED = Path(__file__).with_name("trajectories.json")
STEPS = 20


def trajectory(folder: Path, architecture: str, size: int = 4) -> list[float]:
    """Losses of 20 steps over the same eight rows, dropout off, in micro-batches of `size`."""
    model = adapted_model(folder, architecture).eval()  # GPT-2's own dropout rests
    stepper = Stepper(model, TrainingSettings(), Precision(torch.device("cpu"), torch.float32))
    rows = token_rows(8, seed=3)
    for step in range(STEPS):
        take(stepper, rows, size, step)
    return [outcome.loss for outcome in stepper.post().read()]


def take(stepper: Stepper, rows: list[TokenRow], size: int, step: int) -> None:
    trained = sum(trained_count(row) for row in rows)
    for start in range(0, len(rows), size):
        stepper.accumulate(make_batch(rows[start : start + size]), trained, micro_batch_seed(0, step, start))
    stepper.step(2e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fixed_seed_gives_the_losses_it_gave(tiny_model: Callable[[str], Path], architecture: str) -> None:
    wanted = json.loads(PINNED.read_text())[architecture]
    found = trajectory(tiny_model(architecture), architecture)
    assert found == pytest.approx(wanted, rel=2e-4)
    assert found[-1] < found[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_splitting_a_batch_changes_nothing_but_rounding(tiny_model: Callable[[str], Path], architecture: str) -> None:
    whole = trajectory(tiny_model(architecture), architecture, 8)
    for size in (1, 2):
        cut = trajectory(tiny_model(architecture), architecture, size)
        assert cut[0] == pytest.approx(whole[0], rel=1e-6)
        assert cut == pytest.approx(whole, rel=1e-4)


if __name__ == "__main__":
    import tempfile

    from tests.tiny import save_tiny_model

    with tempfile.TemporaryDirectory() as made:
        PINNED.write_text(
            json.dumps(
                {
                    architecture: [
                        round(loss, 6) for loss in trajectory(save_tiny_model(Path(made) / architecture, architecture), architecture)
                    ]
                    for architecture in ARCHITECTURES
                },
                indent=1,
            )
            + "\n"
        )
