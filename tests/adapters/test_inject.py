"""Putting adapters on loaded models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from lora_studio.adapters.inject import inject, parameter_counts, wrapped_modules
from lora_studio.core.adapter_file import adapter_bytes
from lora_studio.core.errors import InputError
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import resolve
from lora_studio.models.inspect import tree_of

TinyModel = Callable[[str], Path]


@pytest.fixture
def load(tiny_model: TinyModel) -> Callable[..., PreTrainedModel]:
    def loaded(architecture: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(tiny_model(architecture), dtype=dtype)

    return loaded


def adapter(**fields: object) -> AdapterSettings:
    return AdapterSettings.model_validate(fields)


def test_a_seed_decides_a_and_leaves_the_generator_alone(load: Callable[..., PreTrainedModel]) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = inject(load("llama"), adapter(target_modules=["q_proj"]), seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    again = inject(load("llama"), adapter(target_modules=["q_proj"]), seed=3).state_dict()
    other = inject(load("llama"), adapter(target_modules=["q_proj"]), seed=4).state_dict()
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_and_b_are_stored_in_the_adapters_dtype(load: Callable[..., PreTrainedModel], base: torch.dtype, dtype: str) -> None:
    model = inject(load("llama", base), adapter(target_modules="all-linear", dtype=dtype, use_dora=True))
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    frozen = {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad}
    assert trained == {getattr(torch, dtype)}
    assert frozen == {base}


@pytest.mark.parametrize("entry", ["lm_head", "embed_tokens"])
def test_a_tied_embedding_is_refused_with_its_reason(load: Callable[..., PreTrainedModel], entry: str) -> None:
    with pytest.raises(InputError, match="tied") as caught:
        inject(load("qwen3"), adapter(target_modules=[entry]))
    assert caught.value.field == "adapter.target_modules"


def test_conv1d_is_injected_without_a_warning(load: Callable[..., PreTrainedModel]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = inject(load("gpt2"), adapter(target_modules=["c_attn"]))
    assert model.peft_config["default"].fan_in_fan_out
    assert len(wrapped_modules(model)) == 2


def test_overlapping_patterns_are_saved_as_keys_that_do_not_overlap(load: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    settings = adapter(target_modules=["down_proj"], rank_pattern={"layers.0.mlp.down_proj": 16, "down_proj": 4}, r=2)
    model = inject(load("llama"), settings)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load("llama"), tmp_path)
    assert {name: found.r for name, found in wrapped_modules(again).items()} == {
        "model.layers.0.mlp.down_proj": 16,
        "model.layers.1.mlp.down_proj": 4,
    }


def test_the_adapter_files_size_is_foretold(load: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    settings = adapter(target_modules="all-linear", use_dora=True, bias="all")
    model = load("gpt2")
    tree = tree_of(model)
    inject(model, settings).save_pretrained(tmp_path)
    actual = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert adapter_bytes(settings, tree, resolve(settings, tree)) == pytest.approx(actual, rel=0.002)


def test_counts_are_pefts_own(load: Callable[..., PreTrainedModel]) -> None:
    model = inject(load("mistral"), adapter(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert parameter_counts(model) == model.get_nb_trainable_parameters()


def test_adapters_on_fused_experts_merge_to_what_they_computed(load: Callable[..., PreTrainedModel]) -> None:
    settings = adapter(target_parameters=["gate_up_proj", "down_proj"], target_modules=["q_proj"], rank_pattern={"gate_up_proj": 3})
    model = inject(load("qwen3_moe"), settings)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        with model.disable_adapter():
            untouched = model(tokens).logits
        merged = model.merge_and_unload()(tokens).logits
    assert (expected - untouched).abs().max() > 1e-2
    assert torch.allclose(merged, expected, atol=1e-4)
