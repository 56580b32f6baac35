"""Computing in float64 throughout, and in another order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lora_studio.export.verify.precision import ComparisonPrecision
from tests.tiny import ARCHITECTURES

ROW = tuple(range(20, 60))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_in_between_is_less_than_float64(architecture: str, tiny_model: Callable[[str], Path]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model(architecture), dtype=torch.float32)
    precision = ComparisonPrecision.of(model, ROW)
    found, again = precision.logits(model, ROW), precision.logits(model, ROW, reordered=True)
    assert (precision.name, precision.narrowed, found.dtype) == ("float64", False, torch.float64)
    assert 0 < (found - again).abs().max() < 1e-13


def test_the_other_order_is_the_same_function_to_the_noise_of_float32(tiny_model: Callable[[str], Path]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    precision = ComparisonPrecision(wide=False)
    found, again = precision.logits(model, ROW), precision.logits(model, ROW, reordered=True)
    assert 1e-8 < (found - again).abs().max() < 1e-5


def test_what_does_not_compute_in_float64_stays_in_float32(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention = model.model.layers[0].self_attn
    sound = attention.forward

    def narrow(*given: Any, **more: Any) -> Any:
        assert more["hidden_states"].dtype is not None
        if more["hidden_states"].dtype is torch.float64:
            raise NotImplementedError("not implemented for 'Double'")
        return sound(*given, **more)

    monkeypatch.setattr(attention, "forward", narrow)
    precision = ComparisonPrecision.of(model, ROW)
    assert precision.name == "float32"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
