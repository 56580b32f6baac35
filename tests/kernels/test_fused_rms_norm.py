"""A fused norm is the model's own in fewer passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lora_studio.kernels.fused_rms_norm import fused_rms_norm, fused_rms_norms, gain_added
from tests.tiny import ARCHITECTURES, tiny_config

_OTHERS = {"gpt2", "gpt_neox"}  # their norms take off the mean as well


def frozen(architecture: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(tiny_config(architecture)).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
    return model.requires_grad_(requires_grad=False)


def norms(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if gain_added(module) is not None}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_which_norms_are_lean_is_found_out(architecture: str) -> None:
    model = frozen(architecture)
    named = {name for name, module in model.named_modules() if "RMSNorm" in type(module).__name__}
    assert set(norms(model)) == named
    assert (architecture in _OTHERS) == (not named)
    assert {gain_added(module) for module in norms(model).values()} <= {1.0 if architecture == "gemma3" else 0.0}


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - _OTHERS))
def test_values_and_gradients_are_the_modules(architecture: str) -> None:
    for module in norms(frozen(architecture)).values():
        weight: Any = module.weight
        x, upstream = torch.randn(2, 5, len(weight), requires_grad=True), torch.randn(2, 5, len(weight))
        wanted = module(x)
        of_wanted = torch.autograd.grad(wanted, x, upstream)[0]
        with fused_rms_norms(module):
            found = module(x)
            of_found = torch.autograd.grad(found, x, upstream)[0]
        assert type(found.grad_fn).__name__ == "_FusedRMSNormBackward"
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(of_found, of_wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_half_precision_is_rounded_no_worse(architecture: str) -> None:
    module = next(iter(norms(frozen(architecture, torch.bfloat16)).values()))
    weight: Any = module.weight
    x, upstream = torch.randn(40, len(weight)).bfloat16().requires_grad_(), torch.randn(40, len(weight)).bfloat16()

    def taken(way: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        start = x.detach().to(dtype).requires_grad_()
        given = way(start)
        return [given.detach().double(), torch.autograd.grad(given, start, upstream.to(given.dtype))[0].double()]

    plus = gain_added(module)
    assert plus is not None
    exact = taken(lambda start: start * (start.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (weight.double() + plus), torch.float64)
    plain = taken(module, torch.bfloat16)
    with fused_rms_norms(module):
        fused = taken(module, torch.bfloat16)
    for value, one, other in zip(exact, plain, fused):
        assert (other - value).norm() <= 1.05 * (one - value).norm()


class OverGroups(nn.Module):
    """Looks like a norm of one weight, and takes inputs of four dimensions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8), requires_grad=False)
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        rows, heads, length, width = x.shape
        return x.view(rows, heads, length, width) * self.weight


class Shortened(OverGroups):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)


@pytest.mark.parametrize("kind", [OverGroups, Shortened])
def test_what_takes_or_gives_other_shapes_is_no_such_norm(kind: type[nn.Module]) -> None:
    assert gain_added(kind()) is None


def test_a_norm_that_trains_or_sees_another_dtype_keeps_its_own_way(tiny_model: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    assert not norms(model)
    module = next(iter(norms(model.requires_grad_(requires_grad=False)).values()))
    x = torch.randn(3, 32).bfloat16()
    wanted = module(x)
    with fused_rms_norms(model):
        assert "forward" in vars(module)
        assert torch.equal(module(x), wanted)
    assert "forward" not in vars(module)


def test_a_numerical_gradient_is_the_same() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 6, requires_grad=True), torch.randn(6)
    assert torch.autograd.gradcheck(lambda x: fused_rms_norm(x, weight, 1.0, 1e-5), x, eps=1e-2, atol=1e-3, rtol=1e-3)
