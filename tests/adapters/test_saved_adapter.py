"""What an adapter's file says, against the layers PEFT makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lora_studio.adapters.inject import wrapped_modules
from lora_studio.adapters.saved_adapter import OWN_NAMES, SavedAdapter
from lora_studio.core.errors import InputError
from lora_studio.models.inspect import inspect_model

CASES: list[tuple[str, dict[str, Any]]] = [
    (
        "llama",
        {
            "target_modules": ["q_proj", "embed_tokens", "lm_head"],
            "use_rslora": True,
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"lm_head": 3},
        },
    ),
    ("llama", {"target_modules": ["q_proj"], "use_dora": True, "modules_to_save": ["lm_head"]}),
    (
        "qwen3_moe",
        {
            "target_modules": ["q_proj"],
            "rank_pattern": {"experts.gate_up_proj": 3},
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"],
        },
    ),
    ("gpt2", {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True, "trainable_token_indices": {"wte": [4, 7]}}),
]


def saved(base: Path, folder: Path, **settings: Any) -> Any:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, **settings))
    model.save_pretrained(str(folder))
    return model


@pytest.mark.parametrize(("architecture", "settings"), CASES)
def test_names_ranks_and_scales_are_those_of_the_layers_peft_makes(
    architecture: str, settings: dict[str, Any], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_model(architecture)
    layers = wrapped_modules(saved(base, tmp_path, **settings))
    adapter = SavedAdapter.open(tmp_path, inspect_model(base))
    assert {name: (pair.r, pair.scale) for name, pair in adapter.pairs.items()} == {
        name: (layer.r, layer.scaling) for name, layer in layers.items()
    }


def test_whole_weights_and_trained_rows_are_told_apart(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    saved(tiny_model("llama"), tmp_path, target_modules=["q_proj"], modules_to_save=["lm_head"], trainable_token_indices=[3, 9])
    adapter = SavedAdapter.open(tmp_path)
    assert set(adapter.whole) == {"lm_head.weight"}
    assert adapter.token_indices == {"model.embed_tokens": [3, 9]}


def test_a_config_that_contradicts_its_tensors_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    saved(tiny_model("llama"), tmp_path, target_modules=["q_proj"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 5}))
    with pytest.raises(InputError, match="has rank 4, the config says 5"):
        SavedAdapter.open(tmp_path)


def test_names_of_its_own_that_fall_together_are_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    saved(tiny_model("llama"), folder, target_modules=["q_proj"])
    tensors = load_file(folder / "adapter_model.safetensors")
    first, other = sorted(tensors)[:2]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt", OWN_NAMES: json.dumps({first: other})})
    with pytest.raises(InputError, match="several tensors one name"):
        SavedAdapter.open(folder)


@pytest.mark.parametrize("told", ["[]", "{", '{"no such tensor": "model"}'])
def test_names_that_say_nothing_of_the_file_change_nothing(told: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    saved(tiny_model("llama"), folder, target_modules=["q_proj"])
    wanted = SavedAdapter.open(folder).pairs
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt", OWN_NAMES: told})
    assert SavedAdapter.open(folder).pairs == wanted
