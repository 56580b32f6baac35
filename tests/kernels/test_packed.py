from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_studio.core.errors import InputError
from lora_studio.data.token_rows import TokenRow
from lora_studio.kernels import attention
from lora_studio.kernels.batches import Batch, make_batch
from lora_studio.kernels.head import SelectedHead
from lora_studio.kernels.packed import packed_masks, refuse_unpackable
from lora_studio.kernels.varlen import has_varlen, largest_error
from tests.tiny import ARCHITECTURES, save_tiny_model
from tests.train.helpers import adapted_model, token_rows

TinyModel = Callable[[str], Path]


def joined(rows: list[TokenRow]) -> TokenRow:
    borders = np.cumsum([row.input_ids.size for row in rows])[:-1]
    return TokenRow(np.concatenate([row.input_ids for row in rows]), np.concatenate([row.trained for row in rows]), tuple(borders.tolist()))


def token_losses(model: torch.nn.Module, rows: list[TokenRow]) -> torch.Tensor:
    return losses_of(model, make_batch(rows))


def losses_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad(), SelectedHead(model) as head:
        return torch.nn.functional.cross_entropy(head.logits(batch).float(), batch.targets, reduction="none")


def largest_difference(model: torch.nn.Module) -> float:
    rows = token_rows(7, longest=40)
    blocks = [joined(rows[:4]), joined(rows[4:6]), rows[6]]
    alone = torch.cat([token_losses(model, [row]) for row in rows])
    return float((token_losses(model, blocks) - alone).abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_rows_losses_are_those_of_the_row_alone(tiny_model: TinyModel, architecture: str) -> None:
    model = adapted_model(tiny_model(architecture), architecture).eval()
    assert largest_difference(model) <= 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_end_to_end_are_filled_up_to_a_multiple_of_8_and_lose_nothing(tmp_path: Path, architecture: str) -> None:
    longest = 19  # the model has no position beyond
    sizes = {"n_positions": longest} if architecture == "gpt2" else {"max_position_embeddings": longest}
    model = adapted_model(save_tiny_model(tmp_path / "short", architecture, **sizes), architecture).eval()
    rows = [TokenRow(row.input_ids[:longest], row.trained[:longest]) for row in token_rows(5, longest=60)]
    rows = [next(row for row in rows if row.input_ids.size == longest), *rows]
    for some in (rows[:1], rows):
        batch = make_batch(some, padding_free=True)
        tokens = sum(row.input_ids.size for row in some)
        assert batch.input_ids.shape == (1, -(-tokens // 8) * 8)
        assert (batch.width, batch.counts) == (longest, tuple(int(row.trained[1:].sum()) for row in some))
        alone = torch.cat([token_losses(model, [row]) for row in some])
        torch.testing.assert_close(losses_of(model, batch), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mistral", "phi3", "qwen3_moe"])
def test_a_window_over_all_layers_stays_in_packed_rows(tmp_path: Path, architecture: str) -> None:
    folder = save_tiny_model(
        tmp_path / "windowed", architecture, sliding_window=6, **({"use_sliding_window": True} if architecture == "qwen3_moe" else {})
    )
    assert largest_difference(adapted_model(folder, architecture).eval()) <= 1e-5


def test_attention_that_adds_its_mask_keeps_documents_apart_too(tiny_model: TinyModel) -> None:
    model = adapted_model(tiny_model("gemma3"), "gemma3").eval()
    model.get_base_model().set_attn_implementation("eager")
    assert largest_difference(model) <= 1e-5


def test_gradients_of_packed_rows_are_those_of_the_rows_alone(tiny_model: TinyModel) -> None:
    model = adapted_model(tiny_model("gemma3"), "gemma3").eval()
    rows = token_rows(4)
    gradients = []
    for batches in ([[row] for row in rows], [[joined(rows)]]):
        model.zero_grad()
        for batch in map(make_batch, batches):
            with SelectedHead(model) as head:
                torch.nn.functional.cross_entropy(head.logits(batch).float(), batch.targets, reduction="sum").backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_a_mask_lets_a_token_see_its_own_document_backwards_alone(tiny_model: TinyModel) -> None:
    model = adapted_model(tiny_model("llama"))
    mask = packed_masks(model, torch.tensor([[1, 1, 2, 2, 0]]), torch.float32)
    assert isinstance(mask, torch.Tensor)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


def test_a_model_that_carries_a_state_from_token_to_token_is_refused(tiny_model: TinyModel) -> None:
    model = adapted_model(tiny_model("qwen3"), "qwen3")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(InputError, match="linear_attention") as raised:
        refuse_unpackable(model)
    assert raised.value.field == "data.packing"


def attend_by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What `varlen_attn` is documented to give, document by document, in float32."""
    ends = cu_seq_q.tolist()
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == max(end - start for start, end in itertools.pairwise(ends))
    assert window_size[1] == 0
    parts = []
    for start, end in itertools.pairwise(ends):
        places = torch.arange(end - start)
        distance = places[:, None] - places
        mask = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        heads = [part[start:end].transpose(0, 1).float() for part in (query, key, value)]
        attended = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts).to(query.dtype)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_over_documents_of_any_length_gives_what_a_mask_gives(
    tiny_model: TinyModel,
    architecture: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = adapted_model(tiny_model(architecture), architecture, dtype=torch.bfloat16).eval()
    rows = token_rows(7, longest=40)
    blocks = [joined(rows[:4]), joined(rows[4:6]), rows[6]]
    masked = token_losses(model, blocks)
    calls = []
    monkeypatch.setattr(
        "torch.nn.attention.varlen.varlen_attn",
        lambda *arguments, **options: (calls.append(options["window_size"]), attend_by_document(*arguments, **options))[1],
    )
    monkeypatch.setattr(attention, "has_varlen", lambda _device: True)
    by_document = token_losses(model, blocks)
    assert len(calls) == model.config.num_hidden_layers
    assert (architecture == "gemma3") == (len(set(calls)) > 1)
    assert not torch.equal(masked, by_document)
    torch.testing.assert_close(by_document, masked, rtol=3e-2, atol=3e-2)


def test_a_device_is_asked_whether_it_attends_over_documents_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attend_by_document)
    assert largest_error(torch.device("cpu")) <= 2e-2
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, *_arguments, **_options: torch.zeros_like(query))
    assert largest_error(torch.device("cpu")) > 0.1
    assert not has_varlen(torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_of_today_attends_over_documents() -> None:
    assert largest_error(torch.device("cuda")) <= 2e-2
