from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lora_studio.core.errors import StudioError
from lora_studio.kernels.batches import by_length, make_batch
from lora_studio.kernels.head import SelectedHead, token_loss_sum
from tests.tiny import ARCHITECTURES, tiny_config
from tests.train.helpers import adapted_model, token_rows


def plain_loss(model: torch.nn.Module, rows: list) -> torch.Tensor:
    """The sum of token losses of each row alone, unpadded, with the model's whole logits."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.from_numpy(row.input_ids.astype("int64"))[None]
        labels = torch.where(torch.from_numpy(row.trained), ids[0], -100)
        logits = model(input_ids=ids).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits.float(), labels[1:], reduction="sum", ignore_index=-100)
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_on_trained_positions_is_the_plain_loss(tiny_model: Callable[[str], Path], architecture: str) -> None:
    model = adapted_model(tiny_model(architecture), architecture)
    rows = token_rows(5)
    batch = make_batch(rows)
    with SelectedHead(model) as head:
        selected = token_loss_sum(head.logits(batch), batch.targets) / len(batch.targets)
    selected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    plain = plain_loss(model, rows) / len(batch.targets)
    plain.backward()

    assert selected.item() == pytest.approx(plain.item(), abs=1e-6)
    assert gradients
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_what_a_model_does_behind_its_head_still_happens() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("gemma3", final_logit_softcapping=0.5))
    rows = token_rows(3)
    batch = make_batch(rows)
    with torch.no_grad(), SelectedHead(model) as head:
        logits = head.logits(batch)
        assert logits.abs().max() <= 0.5
        loss = token_loss_sum(logits, batch.targets)
        assert loss.item() == pytest.approx(plain_loss(model, rows).item(), rel=1e-6)


def test_full_logits_never_exist(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"))
    selected = SelectedHead(model)  # tries the model out on a few tokens
    seen: list[tuple[int, ...]] = []
    model.get_output_embeddings().register_forward_hook(lambda _head, _inputs, output: seen.append(tuple(output.shape)))
    batch = make_batch(token_rows(4))
    with selected as head:
        head.logits(batch)
    assert seen == [(1, len(batch.targets), 384)]


def test_the_head_is_whole_again_outside(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"))
    batch = make_batch(token_rows(2))
    with SelectedHead(model) as head:
        head.logits(batch)
        assert model(input_ids=batch.input_ids).logits.shape[:2] == batch.input_ids.shape
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_a_model_without_a_head_is_refused(tiny_model: Callable[[str], Path]) -> None:
    body = adapted_model(tiny_model("llama")).get_base_model().model
    with pytest.raises(StudioError, match="no output layer"), SelectedHead(body):
        pass


def test_a_batch_names_each_trained_token_once_and_never_a_rows_first() -> None:
    rows = token_rows(6)
    rows[0].trained[:] = True
    batch = make_batch(rows)
    expected = [int(token) for row in rows for token, trained in zip(row.input_ids[1:], row.trained[1:]) if trained]
    assert batch.targets.tolist() == expected
    assert sum(batch.counts) == len(expected)
    assert batch.counts[0] == len(rows[0].input_ids) - 1


def test_batches_by_length_hold_every_row_once_within_the_bound() -> None:
    lengths = [5, 90, 3, 40, 41, 8, 8, 300]
    groups = by_length(lengths, most_tokens=100, most_rows=3)
    assert sorted(number for group in groups for number in group) == list(range(len(lengths)))
    assert groups[0] == [7]
    assert all(len(group) <= 3 for group in groups)
    assert all(max(lengths[number] for number in group) * len(group) <= 100 for group in groups[1:])
