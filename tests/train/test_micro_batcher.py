from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_studio.core.config import RunConfig
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.batching.packing import PackedRows
from lora_studio.data.batching.plan import StepPlan
from lora_studio.data.token_rows import Rows, TokenRow
from lora_studio.kernels.batches import make_batch
from lora_studio.train.micro_batcher import MicroBatcher
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import Stepper
from tests.train.helpers import adapted_model, token_rows

CPU = torch.device("cpu")
CONFIG = RunConfig().replace(
    {"data.max_length": 64, "data.packing": True, "training.per_device_train_batch_size": 2, "training.gradient_accumulation_steps": 2}
)


class BaseQuantization(Rows):
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
    return PackedRows(BaseQuantization(token_rows(24, longest=40)), 64)


def pieces_of(blocks: Rows, device: str, padding_free: bool = False, config: RunConfig = CONFIG) -> tuple[MicroBatcher, StepPlan]:
    plan = StepPlan(blocks.lengths, blocks.trained_counts, config.training)
    return MicroBatcher(blocks, config, torch.device(device), padding_free=padding_free), plan


def tokens_of(pieces: list[list[TokenRow]]) -> list[tuple[int, ...]]:
    """The documents of some micro-batches, wherever they stand."""
    return sorted(tuple(document.tolist()) for piece in pieces for row in piece for document in np.split(row.input_ids, row.borders))


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


@pytest.mark.parametrize(
    "rows",
    [PackedRows(BaseQuantization(token_rows(24, longest=40)), 64), BaseQuantization(token_rows(24, longest=40))],
    ids=["packed", "rows"],
)
def test_rows_end_to_end_need_no_more_room_than_the_settings_largest_micro_batch(rows: Rows) -> None:
    pieces, plan = pieces_of(rows, "cpu", padding_free=True)
    most = 2 * (64 if isinstance(rows, PackedRows) else int(rows.lengths.max()))
    for step in map(plan.step, range(plan.total_steps)):
        found = pieces.of(step)
        assert tokens_of(found) == tokens_of([[rows[row] for row in step.rows]])
        sizes = [sum(row.input_ids.size for row in piece) for piece in found]
        assert max(sizes) <= most
        assert sum(size <= most // 2 for size in sizes) <= 1  # else two of them would have been one
    assert not pieces_of(rows, "cuda", padding_free=True)[0].padding_free


def test_a_row_longer_than_what_is_joined_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.train.micro_batcher._PADDING_FREE_TOKENS", 10)
    pieces, plan = pieces_of(BaseQuantization(token_rows(8, longest=40)), "cpu", padding_free=True)
    found = pieces.of(plan.step(0))
    assert len(found) > 1
    assert all(len(piece) == 1 or sum(row.input_ids.size for row in piece) <= 10 for piece in found)


@pytest.mark.parametrize("architecture", ["gemma3", "llama", "gpt_neox", "qwen3_moe"])
def test_a_step_is_the_same_however_a_device_takes_its_rows(
    tiny_model: Callable[[str], Path],
    blocks: PackedRows,
    architecture: str,
) -> None:
    outcomes = []
    for device, padding_free in (("cuda", False), ("cpu", False), ("cpu", True)):
        stepper = Stepper(adapted_model(tiny_model(architecture), architecture), TrainingSettings(), Precision(CPU, torch.float32))
        assert stepper.padding_free
        pieces, plan = pieces_of(blocks, device, padding_free)
        step = plan.step(0)
        for piece in pieces.of(step):
            stepper.accumulate(make_batch(piece, padding_free=pieces.padding_free), step.trained_tokens, 0)
        stepper.step(1e-3)
        outcomes.append(stepper.post().read()[0])
    for other in outcomes[1:]:
        assert other.loss == pytest.approx(outcomes[0].loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(outcomes[0].grad_norm, rel=1e-5)


@pytest.mark.parametrize("padding_free", [False, True])
def test_half_of_what_was_too_much_is_taken(blocks: PackedRows, padding_free: bool) -> None:
    pieces, plan = pieces_of(blocks, "cpu", padding_free)
    largest = max(len(piece) for piece in pieces.of(plan.step(0)))
    assert largest > 1
    pieces.halve(largest)
    assert max(len(piece) for piece in pieces.of(plan.step(0))) <= largest // 2
