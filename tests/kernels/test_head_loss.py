"""The loss of a frozen output layer, block by block, is the plain one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from lora_studio.kernels import head_loss
from lora_studio.kernels.batches import make_batch
from lora_studio.kernels.head import SelectedHead, token_loss_sum
from lora_studio.kernels.head_loss import frozen_head_loss
from lora_studio.planning.budget import BARE_HEADS
from tests.tiny import ARCHITECTURES, tiny_config
from tests.train.helpers import adapted_model, token_rows


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many blocks":
        monkeypatch.setattr(head_loss, "head_tile", lambda _kind, _vocabulary: (3, 7))


def gradients(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_the_whole_logits(tiny_model: Callable[[str], Path], architecture: str) -> None:
    model = adapted_model(tiny_model(architecture), architecture).eval()
    batch = make_batch(token_rows(7))
    with SelectedHead(model) as head:
        assert head.bare(batch)
        plain = token_loss_sum(head.logits(batch), batch.targets)
        wanted = gradients(model, plain / 7)
        fused = head.loss_sum(batch)
        found = gradients(model, fused / 7)
    assert fused.item() == pytest.approx(plain.item(), rel=1e-6)
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_counts_and_half_precision_rounds_no_worse_than_the_plain_way(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 50).requires_grad_(requires_grad=False)
    targets = torch.randint(0, 50, (31,))
    start = torch.randn(31, 16)

    def taken(way: Callable[[Tensor], Tensor], autocast: bool) -> tuple[Tensor, Tensor]:
        hidden = start.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=autocast):
            loss = way(hidden)
        loss.backward()
        assert hidden.grad is not None
        return loss.detach(), hidden.grad

    half = dtype != torch.float32
    exact = taken(lambda hidden: token_loss_sum(head(hidden), targets), False)
    plain = taken(lambda hidden: token_loss_sum(head(hidden), targets), half)
    fused = taken(lambda hidden: frozen_head_loss(hidden, head, targets), half)
    for value, one, other in zip(exact, plain, fused):
        assert (other - value).norm() <= 1.5 * (one - value).norm() + 1e-6 * value.norm()


def test_no_gradient_is_formed_where_none_is_wanted() -> None:
    head = nn.Linear(8, 20).requires_grad_(requires_grad=False)
    with torch.no_grad():
        loss = frozen_head_loss(torch.randn(5, 8), head, torch.zeros(5, dtype=torch.int64))
    assert not loss.requires_grad


class Sizes(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor) and tensor.shape[-1:] == (384,) and tensor.shape != (32, 384):  # the layer's weight
                self.largest = max(self.largest, tensor.numel())
        return made


def test_the_whole_logits_never_exist(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "head_tile", lambda _kind, vocabulary: (4, vocabulary))
    model = adapted_model(tiny_model("llama"))
    batch = make_batch(token_rows(6))
    assert len(batch.targets) > 8
    with SelectedHead(model) as head:
        head.bare(batch)
        with Sizes() as sizes:
            head.loss_sum(batch).backward()
    assert sizes.largest == 4 * 384


def soft_capped(_folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_config(tiny_config("gemma3", final_logit_softcapping=0.5))


def with_adapted_head(folder: Path) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM"))


def with_saved_head(folder: Path) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"))


@pytest.mark.parametrize("special", [soft_capped, with_adapted_head, with_saved_head])
def test_a_special_head_keeps_its_own_way(tiny_model: Callable[[str], Path], special: Callable[[Path], nn.Module]) -> None:
    torch.manual_seed(0)
    model = special(tiny_model("llama"))
    batch = make_batch(token_rows(3))
    with torch.no_grad(), SelectedHead(model) as head:
        assert not head.bare(batch)
        assert head.loss_sum(batch).item() == token_loss_sum(head.logits(batch), batch.targets).item()


def test_trying_the_head_out_draws_no_random_number_and_leaves_the_mode(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"), dropout=0.5).train()
    state = torch.random.get_rng_state()
    with SelectedHead(model) as head:
        head.bare(make_batch(token_rows(3)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("architecture", sorted(BARE_HEADS & set(ARCHITECTURES)))
def test_the_memory_estimate_knows_which_heads_are_bare(architecture: str) -> None:
    model = AutoModelForCausalLM.from_config(tiny_config(architecture)).requires_grad_(requires_grad=False)
    with SelectedHead(model) as head:
        assert head.bare(make_batch(token_rows(2)))
