from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.batching.collate import collate
from lora_studio.data.batching.plan import StepPlan
from lora_studio.data.token_rows import TokenRow

STRATEGIES = ("random", "sequential", "group_by_length")


def plan_of(rows: int, fingerprint: str = "data", **changes: Any) -> StepPlan:
    lengths = 5 + (np.arange(rows) * 7919) % 101
    return StepPlan(lengths, lengths // 2, TrainingSettings(**changes), fingerprint)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    batch=st.integers(1, 9),
    parts=st.integers(1, 3),
    strategy=st.sampled_from(STRATEGIES),
    seed=st.integers(0, 5),
)
def test_an_epoch_takes_each_row_once(rows: int, batch: int, parts: int, strategy: str, seed: int) -> None:
    plan = plan_of(
        rows,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=parts,
        num_train_epochs=2,
        train_sampling_strategy=strategy,
        seed=seed,
    )
    steps = [plan.step(number) for number in range(plan.total_steps)]
    assert plan.total_steps == 2 * plan.steps_per_epoch
    for epoch in range(2):
        taken = [row for step in steps[epoch * plan.steps_per_epoch : (epoch + 1) * plan.steps_per_epoch] for row in step.rows]
        assert sorted(taken) == list(range(rows))
    assert all(len(step.rows) == batch * parts for step in steps[: plan.steps_per_epoch - 1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_step_asked_for_alone_is_the_one_met_in_sequence(strategy: str) -> None:
    changes: dict[str, Any] = {"num_train_epochs": 5, "train_sampling_strategy": strategy}
    walked = plan_of(37, **changes)
    steps = [walked.step(number) for number in range(walked.total_steps)]
    for number in reversed(range(walked.total_steps)):
        assert plan_of(37, **changes).step(number) == steps[number]
        assert walked.step(number) == steps[number]


def test_counts_are_those_of_the_rows() -> None:
    lengths, trained = np.array([4, 9, 6]), np.array([1, 5, 2])
    step = StepPlan(lengths, trained, TrainingSettings(per_device_train_batch_size=8)).step(0)
    assert (step.tokens, step.trained_tokens, step.rows, step.epoch) == (19, 8, (1, 2, 0), 1.0)


def test_epochs_data_and_seed_each_change_the_order() -> None:
    plan = plan_of(64, num_train_epochs=2)
    assert plan.step(0).rows != plan.step(plan.steps_per_epoch).rows
    assert plan.step(0).rows != plan_of(64, fingerprint="other").step(0).rows
    assert plan.step(0).rows != plan_of(64, seed=1).step(0).rows


def test_the_order_is_the_same_on_every_machine_and_release() -> None:
    assert plan_of(12, train_sampling_strategy="random").step(0).rows == (9, 4, 8, 10)


def test_sequential_takes_rows_as_they_stand() -> None:
    plan = plan_of(10, train_sampling_strategy="sequential")
    assert [set(plan.step(number).rows) for number in range(3)] == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}]


@pytest.mark.parametrize(("epochs", "most", "steps"), [(1, -1, 3), (0.5, -1, 2), (0.01, -1, 1), (2.5, -1, 8), (1, 7, 7), (3, 2, 2)])
def test_total_steps_follow_epochs_or_max_steps(epochs: float, most: int, steps: int) -> None:
    plan = plan_of(10, num_train_epochs=epochs, max_steps=most)
    assert plan.total_steps == steps
    assert plan.step(steps - 1).rows
    with pytest.raises(IndexError):
        plan.step(steps)


def test_grouping_by_length_pads_less_than_half_of_what_random_pads() -> None:
    def padding(strategy: str) -> int:
        plan = plan_of(400, per_device_train_batch_size=8, train_sampling_strategy=strategy)
        steps = [plan.step(number) for number in range(plan.total_steps)]
        return sum(max(5 + (row * 7919) % 101 for row in step.rows) * len(step.rows) - step.tokens for step in steps)

    assert padding("group_by_length") < 0.5 * padding("random")


def test_a_plan_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="needs rows"):
        StepPlan([], [], TrainingSettings())


def test_collating_pads_on_the_right_and_labels_only_trained_tokens() -> None:
    rows = [TokenRow(np.array([5, 6, 7], np.int32), np.array([False, True, True])), TokenRow(np.array([8], np.int32), np.array([False]))]
    batch = collate(rows, pad_id=9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.labels.tolist() == [[-100, 6, 7], [-100, -100, -100]]
    assert batch.trained.tolist() == [[False, True, True], [False, False, False]]
