"""Attention a block of queries at a time is attention with a mask."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lora_studio.kernels import block_attention
from lora_studio.kernels.block_attention import AttentionLayout, attend_in_blocks, documents_apart, rows_apart
from lora_studio.kernels.packed import visible
from lora_studio.planning import tiles


def tensors(
    rows: int,
    length: int,
    heads: int,
    key_heads: int,
    width: int,
    of_values: int,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Queries, keys, values, and the gradient of what comes of them."""
    numbers = torch.Generator().manual_seed(0)

    def made(heads: int, width: int) -> Tensor:
        drawn = torch.randn(rows, length, heads, width, generator=numbers).to(dtype)
        return drawn.transpose(1, 2).requires_grad_()  # as projections leave them: a token's heads side by side

    return [made(heads, width), made(key_heads, width), made(key_heads, of_values), made(heads, of_values).detach().transpose(1, 2)]


def with_a_mask(query: Tensor, key: Tensor, value: Tensor, documents: Tensor, window: int | None, scale: float | None) -> Tensor:
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=visible(documents, window), scale=scale, enable_gqa=True
    )
    return attended.transpose(1, 2)


def documents_of(borders: Sequence[int] | None, rows: int, length: int) -> Tensor:
    places = torch.arange(rows * length).view(rows, length)
    return torch.zeros_like(places) if borders is None else torch.bucketize(places, torch.tensor(borders), right=True)


def laid_out(borders: Sequence[int] | None, rows: int, length: int) -> AttentionLayout:
    return rows_apart(rows, length) if borders is None else documents_apart(borders)


@pytest.mark.parametrize("window", [None, 1, 9, 64, 500])
@pytest.mark.parametrize(
    ("rows", "length", "borders"),
    [(1, 200, None), (3, 70, None), (2, 1, None), (1, 200, [0, 1, 130, 131, 200]), (2, 90, [0, 30, 90, 155, 180])],
)
@pytest.mark.parametrize(("heads", "key_heads", "of_values"), [(6, 2, 8), (4, 4, 16), (3, 1, 8)])
def test_it_gives_what_a_mask_gives(
    heads: int,
    key_heads: int,
    of_values: int,
    rows: int,
    length: int,
    borders: list[int] | None,
    window: int | None,
) -> None:
    *inputs, upstream = tensors(rows, length, heads, key_heads, 8, of_values)
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted = with_a_mask(*doubles, documents_of(borders, rows, length), window, 0.3)
    found = attend_in_blocks(*inputs, laid_out(borders, rows, length), 0.3, window)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    of_wanted = torch.autograd.grad(wanted, doubles, upstream.double())
    for own, other in zip(torch.autograd.grad(found, inputs, upstream), of_wanted):
        torch.testing.assert_close(own.double(), other, rtol=1e-5, atol=3e-6)


def test_a_numerical_gradient_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "QUERIES", (3,))
    monkeypatch.setattr(block_attention, "QUERIES", (3,))
    *inputs, _ = tensors(1, 8, 4, 2, 3, 3, torch.float64)

    def attended(*tensors: Tensor) -> Tensor:
        return attend_in_blocks(*tensors, documents_apart([0, 2, 8]), None, 4)

    block_attention._hiding.cache_clear()
    try:
        assert torch.autograd.gradcheck(attended, inputs)
    finally:
        block_attention._hiding.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_as_plain_products_of_it_do(dtype: torch.dtype) -> None:
    *inputs, upstream = tensors(1, 150, 6, 2, 16, 16, dtype)
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted = with_a_mask(*doubles, documents_of(None, 1, 150), None, None)
    exact = torch.autograd.grad(wanted, doubles, upstream.double())
    found = torch.autograd.grad(attend_in_blocks(*inputs, rows_apart(1, 150)), inputs, upstream)
    for own, other in zip(found, exact):
        assert (own.double() - other).norm() <= 3 * torch.finfo(dtype).eps * other.norm()


def test_scores_beyond_the_largest_half_are_scaled_before_they_are_formed() -> None:
    large = torch.full((1, 1, 4, 64), 40.0, dtype=torch.float16, requires_grad=True)
    value = torch.randn(1, 1, 4, 64, dtype=torch.float16)
    found = attend_in_blocks(large, large, value, rows_apart(1, 4))
    torch.testing.assert_close(found[0, -1, 0], value[0, 0].float().mean(0).half(), rtol=1e-2, atol=1e-2)
    assert torch.autograd.grad(found.float().sum(), large)[0].isfinite().all()


def test_autocast_decides_the_dtype() -> None:
    *inputs, upstream = tensors(1, 40, 4, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend_in_blocks(*inputs, rows_apart(1, 40))
    assert found.dtype == torch.bfloat16
    found.backward(upstream.to(torch.bfloat16))
    assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for tensor in inputs)
