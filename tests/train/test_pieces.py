from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_studio.core.config import RunConfig
from lora_studio.core.settings import TrainingSettings
from lora_studio.data.packing import PackedRows
from lora_studio.data.plan import StepPlan
from lora_studio.data.token_rows import Rows, TokenRow
from lora_studio.generate.batches import make_batch
from lora_studio.train.pieces import Pieces
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import Stepper
from tests.train.helpers import adapted_model, token_rows

CPU = torch.device("cpu")
CONFIG = RunConfig().replace({
    "data.max_length": 64, "data.packing": True, "training.per_device_train_batch_size": 2, "training.gradient_accumulation_steps": 2})


class Held(Rows):
    """Rows in memory."""

    def __init__(self, rows: list[TokenRow]) -> None:
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
        return np.array([row.trained[1:].sum() for row in self._rows])

    def fingerprint(self) -> str:
        return "held"


@pytest.fixture
def blocks() -> PackedRows:
    return PackedRows(Held(token_rows(24, longest=40)), 64)


def pieces_of(blocks: Rows, device: str) -> tuple[Pieces, StepPlan]:
    plan = StepPlan(blocks.lengths, blocks.trained_counts, CONFIG.training)
    return Pieces(blocks, plan, CONFIG, torch.device(device)), plan


def tokens_of(pieces: list[list[TokenRow]]) -> list[tuple[int, ...]]:
    """The documents of some micro-batches, wherever they stand."""
    return sorted(
        tuple(document.tolist()) for piece in pieces for row in piece for document in np.split(row.input_ids, row.borders))


def test_a_processor_takes_packed_blocks_apart_and_a_card_does_not(blocks: PackedRows) -> None:
    on_cpu, plan = pieces_of(blocks, "cpu")
    on_card, _plan = pieces_of(blocks, "cuda")
    for step in map(plan.step, range(plan.total_steps)):
        apart, packed = on_cpu.of(step), on_card.of(step)
        assert tokens_of(apart) == tokens_of(packed)
        assert not any(row.borders for piece in apart for row in piece)
        assert sum(len(piece) for piece in packed) == len(step.rows)
        assert all(len(piece) * max(row.input_ids.size for row in piece) <= 2 * 64 for piece in apart)
    assert any(row.borders for piece in on_card.of(plan.step(0)) for row in piece)


def test_blocks_taken_apart_make_the_same_step(tiny_model: Callable[[str], Path], blocks: PackedRows) -> None:
    outcomes = []
    for device in ("cpu", "cuda"):
        pieces, plan = pieces_of(blocks, device)
        stepper = Stepper(adapted_model(tiny_model("gemma3"), "gemma3"), TrainingSettings(), Precision(CPU, torch.float32))
        step = plan.step(0)
        for piece in pieces.of(step):
            stepper.add(make_batch(piece), step.trained_tokens, 0)
        stepper.finish(1e-3)
        outcomes.append(stepper.post().read()[0])
    assert outcomes[0].loss == pytest.approx(outcomes[1].loss, rel=1e-6)
    assert outcomes[0].grad_norm == pytest.approx(outcomes[1].grad_norm, rel=1e-5)


def test_half_of_what_was_too_much_is_taken(blocks: PackedRows) -> None:
    pieces, plan = pieces_of(blocks, "cpu")
    largest = max(len(piece) for piece in pieces.of(plan.step(0)))
    assert largest > 1
    pieces.halve(largest)
    assert max(len(piece) for piece in pieces.of(plan.step(0))) <= largest // 2
