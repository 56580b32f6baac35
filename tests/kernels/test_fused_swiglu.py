"""A fused gated MLP is the model's own in fewer passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from lora_studio.kernels import fused_swiglu
from lora_studio.kernels.fused_swiglu import fused_swiglus, gated, is_gated_by_silu
from tests.tiny import ARCHITECTURES, tiny_config
from tests.train.helpers import adapted_model

_GATED = {"llama", "qwen3", "mistral"}


def mlps(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if is_gated_by_silu(module)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_which_mlps_are_gated_by_silu_is_found_out(architecture: str) -> None:
    model = AutoModelForCausalLM.from_config(tiny_config(architecture))
    assert len(mlps(model)) == (len(model.base_model.layers) if architecture in _GATED else 0)


def test_another_activation_keeps_its_own_way() -> None:
    assert not mlps(AutoModelForCausalLM.from_config(tiny_config("llama", hidden_act="gelu")))


class Upcast(LlamaMLP):
    """Rounds but once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act_fn(self.gate_proj(x).float()) * self.up_proj(x).float()
        return self.down_proj(inner.to(x.dtype))


class Flat(LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)).view(-1)


@pytest.mark.parametrize("kind", [Upcast, Flat])
def test_one_that_rounds_otherwise_or_gives_another_shape_keeps_its_own_way(kind: type[LlamaMLP]) -> None:
    assert is_gated_by_silu(LlamaMLP(tiny_config("llama")))
    assert not is_gated_by_silu(kind(tiny_config("llama")))


@pytest.mark.parametrize("max_rows", [1, 100, 1 << 18])
def test_values_and_gradients_are_those_of_two_modules(monkeypatch: pytest.MonkeyPatch, max_rows: int) -> None:
    monkeypatch.setattr(fused_swiglu, "GATED_AT_ONCE", max_rows)
    torch.manual_seed(0)
    tensors = [torch.randn(2, 7, 20, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    torch.testing.assert_close(gated(*tensors), torch.nn.functional.silu(tensors[0]) * tensors[1])
    assert torch.autograd.gradcheck(gated, tensors)


def test_an_adapted_mlp_gives_what_it_gave_and_keeps_less(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"), dropout=0.5).train()
    state = torch.random.get_rng_state()
    ids = torch.randint(5, 100, (2, 70))

    def taken() -> tuple[torch.Tensor, list[torch.Tensor], int]:
        kept: dict[int, int] = {}
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (kept.__setitem__(tensor.data_ptr(), tensor.numel()), tensor)[1], lambda tensor: tensor
        ):
            loss = model(input_ids=ids, labels=ids).loss
        model.zero_grad()
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None], sum(kept.values())

    plain, wanted, before = taken()
    torch.random.set_rng_state(state)
    with fused_swiglus(model):
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(module.training for module in model.modules())
        fused, found, after = taken()
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(found, wanted)
    layers = [module for module in model.modules() if type(module).__name__ == "LlamaMLP"]
    assert before - after == sum(140 * module.gate_proj.out_features for module in layers)
    assert not any("forward" in vars(module) for module in layers)
