from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_studio.core.errors import Cancelled
from lora_studio.inference.score import held_out_logits, loss_sums
from lora_studio.kernels.batches import trained_count
from tests.train.helpers import adapted_model, token_rows

TinyModel = Callable[[str], Path]


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_logits_of_a_row_are_those_of_the_row_alone(tiny_model: TinyModel, architecture: str) -> None:
    model = adapted_model(tiny_model(architecture), architecture, dropout=0.5).train()
    rows = token_rows(7)
    found = {scored.row: scored for scored in held_out_logits(model, rows)}
    assert sorted(found) == list(range(7))
    assert model.training
    model.eval()
    for number, row in enumerate(rows):
        ids = torch.from_numpy(row.input_ids.astype("int64"))
        with torch.no_grad():
            alone = model(input_ids=ids[None]).logits[0, :-1][torch.from_numpy(row.trained[1:])]
        torch.testing.assert_close(found[number].logits, alone, rtol=1e-5, atol=1e-5)
        assert found[number].targets.tolist() == ids[1:][torch.from_numpy(row.trained[1:])].tolist()


def test_a_row_without_trained_tokens_is_passed_over(tiny_model: TinyModel) -> None:
    rows = token_rows(3)
    rows[1].trained[:] = False
    assert sorted(scored.row for scored in held_out_logits(adapted_model(tiny_model("llama")), rows)) == [0, 2]


def test_loss_sums_count_every_trained_token_once(tiny_model: TinyModel) -> None:
    model = adapted_model(tiny_model("llama"))
    rows = token_rows(9)
    pieces = list(loss_sums(model, rows))
    assert sum(tokens for _, tokens, _ in pieces) == sum(map(trained_count, rows))
    assert sum(count for _, _, count in pieces) == 9
    expected = sum(
        float(torch.nn.functional.cross_entropy(scored.logits, scored.targets, reduction="sum")) for scored in held_out_logits(model, rows)
    )
    assert sum(loss for loss, _, _ in pieces) == pytest.approx(expected, rel=1e-5)


def test_scoring_can_be_ended_before_a_batch(tiny_model: TinyModel) -> None:
    def check() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        next(held_out_logits(adapted_model(tiny_model("llama")), token_rows(3), check))
