from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.batching.collate import collate
from lora_studio.data.batching.packing import PackedRows, assign_blocks, best_fit, count_blocks
from lora_studio.data.batching.plan import StepPlan
from lora_studio.data.token_rows import TokenRows
from lora_studio.data.tokens.lengths import LengthTable

CAPACITY = 32


def token_rows(lengths: list[int]) -> TokenRows:
    sizes = np.array(lengths, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    ids = np.arange(sizes.sum(), dtype=np.int32) + 5
    trained = np.ones(ids.size, dtype=np.bool_)
    trained[starts] = False
    return TokenRows(ids, trained, starts, sizes, sizes - 1, "rows")


def best_fit_one_by_one(lengths: list[int], capacity: int) -> int:
    """Count blocks as best-fit decreasing is told: each row into the fullest block with room."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return len(rooms)


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=60))
@settings(max_examples=150, deadline=None)
def test_rows_are_laid_as_best_fit_decreasing_lays_them_one_by_one(lengths: list[int]) -> None:
    blocks = assign_blocks(np.array(lengths), CAPACITY)
    filled = np.bincount(blocks, weights=lengths)
    assert filled.max() <= CAPACITY
    assert filled.min() > 0
    assert filled.size == best_fit_one_by_one(lengths, CAPACITY) == count_blocks(np.bincount(lengths, minlength=CAPACITY + 1), CAPACITY)


def test_a_million_rows_are_laid_in_few_moves() -> None:
    counts = np.bincount(np.random.default_rng(0).integers(20, 1025, 1_000_000), minlength=1025)
    moves = list(best_fit(counts, 1024))
    assert sum(move.blocks * move.rows for move in moves) == 1_000_000
    assert len(moves) < 20_000


def test_a_block_holds_whole_rows_and_says_where_each_begins() -> None:
    rows = token_rows([10, 20, 5, 30, 7])
    packed = PackedRows(rows, CAPACITY)
    assert sorted(number for block in range(len(packed)) for number in packed.members(block).tolist()) == [0, 1, 2, 3, 4]
    for number, block in enumerate(packed):
        members = packed.members(number)
        assert block.input_ids.tolist() == np.concatenate([rows[int(row)].input_ids for row in members]).tolist()
        assert block.borders == tuple(np.cumsum([rows[int(row)].input_ids.size for row in members])[:-1].tolist())
        assert (packed.lengths[number], packed.trained_counts[number]) == (block.input_ids.size, block.trained.sum())
    assert packed.efficiency == pytest.approx(72 / (CAPACITY * len(packed)))


def test_a_block_tells_the_lengths_of_its_rows() -> None:
    rows = token_rows([3, 9, 4, 2])
    packed = PackedRows(rows, 10)
    assert sorted(tuple(sorted(packed.documents(block).tolist())) for block in range(len(packed))) == [(2, 3, 4), (9,)]
    assert [rows.documents(row).tolist() for row in range(4)] == [[3], [9], [4], [2]]


def test_rows_in_other_blocks_are_other_data() -> None:
    rows = token_rows([10, 20, 5])
    assert len({rows.fingerprint(), PackedRows(rows, 32).fingerprint(), PackedRows(rows, 40).fingerprint()}) == 3


def test_a_step_of_packed_rows_counts_blocks_and_every_trained_token_once() -> None:
    rows = token_rows([9] * 40)
    packed = PackedRows(rows, CAPACITY)
    training = TrainingSettings(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    plan = StepPlan(packed.lengths, packed.trained_counts, training, packed.fingerprint())
    assert (len(packed), plan.total_steps) == (14, 4)
    steps = [plan.step(number) for number in range(4)]
    assert sum(step.trained_tokens for step in steps) == 40 * 8


def test_positions_and_documents_restart_at_each_row_of_a_block() -> None:
    batch = collate([PackedRows(token_rows([4, 3]), 8)[0], token_rows([2])[0]], pad_id=0)
    assert batch.packed
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 0, 0, 0, 0]]
    assert batch.document_ids.tolist() == [[1, 1, 1, 1, 2, 2, 2], [1, 1, 0, 0, 0, 0, 0]]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30), st.integers(2, 50))
@settings(max_examples=150, deadline=None)
def test_what_a_length_would_do_is_what_cutting_every_row_does(rows: list[tuple[int, int, int]], max_length: int) -> None:
    masks = [(np.arange(length) >= max(1, start)) & (np.arange(length) < start + count) for length, start, count in rows]
    longest = max(mask.size for mask in masks)
    table = LengthTable(
        np.array([mask.size for mask in masks]),
        np.array([mask.argmax() if mask.any() else mask.size for mask in masks]),
        sum((np.pad(mask.astype(np.int64), (0, longest - mask.size)) for mask in masks), np.zeros(longest, np.int64)),
    )
    kept = [mask[:max_length] for mask in masks]
    packable = [mask.size for mask in kept if mask.any()]
    cut = table.at(max_length)
    assert (cut.rows, cut.cut_rows) == (len(rows), sum(mask.size > max_length for mask in masks))
    assert (cut.tokens, cut.trained) == (sum(mask.size for mask in kept), sum(int(mask.sum()) for mask in kept))
    assert cut.untrained_rows == len(rows) - len(packable)
    assert cut.blocks == best_fit_one_by_one(packable, max_length)
    assert cut.efficiency == pytest.approx(sum(packable) / (cut.blocks * max_length) if cut.blocks else 0)


def test_the_histogram_holds_every_row_once() -> None:
    lengths = np.array([1, 5, 59, 60, 61, 1000])
    histogram = LengthTable(lengths, lengths, np.zeros(1000, np.int64)).histogram()
    assert sum(histogram["counts"]) == 6
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1 <= 62
    assert histogram["edges"][-1] >= 1000
