"""An adapter's config as older releases of PEFT open it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftConfig

from lora_studio.adapters.portable_config import portable
from tests.export.adapters import PLAIN, make_adapter, run_export

PEFT_0_13 = {  # fields of LoraConfig there: any other key in the file is an error
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}


def test_a_plain_config_has_no_key_that_peft_0_13_does_not_know() -> None:
    assert portable(LoraConfig(r=4, target_modules=["q_proj"]).to_dict()).keys() <= PEFT_0_13


def test_an_empty_list_of_names_is_left_out_too() -> None:
    told = portable({"r": 4, "target_modules": ["q_proj"], "target_parameters": [], "exclude_modules": []})
    assert told.keys() == {"r", "target_modules"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"exclude_modules": ["lm_head"]},
        {"lora_bias": True, "bias": "none"},
        {"trainable_token_indices": [1, 2]},
        {"target_parameters": ["mlp.experts.down_proj"]},
        {"megatron_core": "other.core"},
    ],
)
def test_what_a_config_says_is_read_again(changes: dict[str, Any], tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], **changes)
    told = portable({key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()})
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    assert PeftConfig.from_pretrained(str(tmp_path)).to_dict() == config.to_dict()


def test_an_exported_adapter_has_such_a_config(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    source = make_adapter(tiny_model("llama"), tmp_path / "source", **PLAIN)
    assert json.loads((source / "adapter_config.json").read_text()).keys() - PEFT_0_13, "PEFT writes newer keys"
    run_export(source=str(source), kind="adapter", to=str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text()).keys() <= PEFT_0_13


def test_so_has_one_on_the_attention_of_a_model_with_experts(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    source = make_adapter(tiny_model("qwen3_moe"), tmp_path / "source", target_modules=["q_proj"])
    assert json.loads((source / "adapter_config.json").read_text())["target_parameters"] == [], "PEFT writes what it rewrote"
    run_export(source=str(source), kind="adapter", to=str(tmp_path / "out"), check="tensors")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text()).keys() <= PEFT_0_13
