from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import RunFinished
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.models.inspect import empty_model, inspect, inspect_model
from lora_studio.models.tree_cache import cached_tree
from tests.tiny import ARCHITECTURES, tiny_config

RANK = 3


def tree_from_config(folder: Path, **fields: Any) -> ModuleTree:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return inspect_model(folder)


def adapter_parameters(model: Any, module: ModuleInfo) -> int:
    """Count what PEFT makes trainable when it is given this one module."""
    from peft import LoraConfig, get_peft_model

    where = {"target_parameters": [module.name], "target_modules": []} if module.kind == "experts" else {"target_modules": [module.name]}
    config = LoraConfig(r=RANK, lora_dropout=0.0, fan_in_fan_out=module.kind == "conv1d", **where)
    return get_peft_model(model, config, low_cpu_mem_usage=True).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tree_lists_every_module_in_order_with_its_parameters(architecture: str, tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model(architecture))
    tree = inspect_model(tiny_model(architecture))
    modules = [module for module in tree.modules if module.class_name != "Parameter"]
    assert [module.name for module in modules] == [name for name, _ in model.named_modules()]
    assert [module.parameters for module in modules] == [sum(p.numel() for p in module.parameters()) for module in model.modules()]
    assert tree.all_parameters == model.num_parameters()
    assert tree.architecture == type(model).__name__


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_of_every_targetable_module_are_those_of_pefts_adapter(architecture: str, tiny_model: Callable[[str], Path]) -> None:
    tree = inspect_model(tiny_model(architecture))
    layer_one = [module for module in tree.targetable if ".1." in module.name or "layers" not in module.name]
    assert layer_one
    for module in layer_one:
        model = empty_model(tiny_model(architecture))
        expected = RANK * max(1, module.num_experts) * (module.in_features + module.out_features)
        assert adapter_parameters(model, module) == expected, module.name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_cannot_be_targeted_says_why(architecture: str, tiny_model: Callable[[str], Path]) -> None:
    for module in inspect_model(tiny_model(architecture)).modules:
        assert bool(module.reason) != module.targetable, module.name


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "gpt2"])
def test_tied_weights_are_not_targetable_on_either_side(architecture: str, tiny_model: Callable[[str], Path]) -> None:
    tree = inspect_model(tiny_model(architecture))
    head = tree.by_name[tree.output_module]
    embedding = tree.by_name[head.tied_to]
    assert embedding.kind == "embedding"
    assert not head.targetable
    assert not embedding.targetable
    assert head.tied_to in head.reason
    assert head.name in embedding.reason


def test_untied_head_and_embedding_are_targetable(tiny_model: Callable[[str], Path]) -> None:
    tree = inspect_model(tiny_model("llama"))
    assert (tree.output_module, tree.tied_embeddings) == ("lm_head", False)
    assert tree.by_name["lm_head"].targetable
    assert tree.by_name["model.embed_tokens"].targetable


def test_conv1d_is_read_in_times_out(tiny_model: Callable[[str], Path]) -> None:
    module = inspect_model(tiny_model("gpt2")).by_name["transformer.h.0.attn.c_attn"]
    assert (module.kind, module.shape, module.in_features, module.out_features, module.has_bias) == ("conv1d", (32, 96), 32, 96, True)


def test_gpt2_has_the_projection_sizes_of_the_seed_check(tmp_path: Path) -> None:
    tree = tree_from_config(tmp_path / "gpt2", model_type="gpt2", architectures=["GPT2LMHeadModel"])

    def rank_eight(*endings: str) -> int:
        return sum(8 * (module.in_features + module.out_features) for module in tree.targetable if module.name.endswith(endings))

    assert tree.all_parameters == 124_439_808
    assert rank_eight("c_attn") == 294_912
    assert rank_eight("c_attn", "c_proj") == 811_008


def test_fused_experts_and_router_are_parameters_of_their_own(tiny_model: Callable[[str], Path]) -> None:
    tree = inspect_model(tiny_model("qwen3_moe"))
    gate_up = tree.by_name["model.layers.0.mlp.experts.gate_up_proj"]
    assert (gate_up.kind, gate_up.shape, gate_up.num_experts) == ("experts", (4, 32, 32), 4)
    assert (gate_up.in_features, gate_up.out_features) == (32, 32)
    down = tree.by_name["model.layers.0.mlp.experts.down_proj"]
    assert (down.in_features, down.out_features, down.targetable) == (16, 32, True)
    assert tree.by_name["model.layers.0.mlp.gate.weight"].num_experts == 1
    assert not tree.by_name["model.layers.0.mlp.experts"].targetable


def test_config_alone_is_enough_and_reads_no_weights(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model("phi3") / "config.json").read_bytes())
    assert inspect_model(tmp_path) == inspect_model(tiny_model("phi3"))
    assert all(parameter.is_meta for parameter in empty_model(tmp_path).parameters())


def test_large_model_is_inspected_on_the_meta_device(tmp_path: Path) -> None:
    config = tiny_config(
        "llama",
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    ).to_dict()
    tree = tree_from_config(tmp_path, **config)
    assert tree.all_parameters == 70_553_706_496


def test_tree_is_cached_by_what_the_config_says(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_model("mistral")
    assert cached_tree(folder) is None
    tree = inspect_model(folder)
    assert cached_tree(folder) == tree
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_version": "5.99"}), encoding="utf-8")
    assert cached_tree(tmp_path) == tree
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}), encoding="utf-8")
    assert cached_tree(tmp_path) is None


def test_damaged_cache_is_made_again(tiny_model: Callable[[str], Path], studio_home: Path) -> None:
    tree = inspect_model(tiny_model("llama"))
    (kept,) = (studio_home / "cache" / "trees").iterdir()
    kept.write_text('{"config_hash":', encoding="utf-8")
    assert cached_tree(tiny_model("llama")) is None
    assert inspect_model(tiny_model("llama")) == tree


def test_task_leaves_the_tree_cached_and_needs_no_weights(model_copy: Callable[..., Path]) -> None:
    folder = model_copy("gpt_neox")
    (folder / "model.safetensors").unlink()
    *_, last = inspect(TaskContext(), str(folder))
    assert isinstance(last, RunFinished)
    assert last.result["path"] == str(folder)
    assert cached_tree(folder) is not None


def test_unknown_family_is_named(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "config.json").write_text('{"model_type": "wholly_new", "architectures": ["WhollyNew"]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"family wholly_new, which transformers .* does not know"):
        inspect_model(folder)


def test_model_that_generates_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no causal language model"):
        tree_from_config(tmp_path, model_type="vit")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"hidden_act": "no_such_function"},
        {"num_attention_heads": 5},
        {"vocab_size": -4},
    ],
)
def test_config_that_contradicts_itself_is_named(model_copy: Callable[..., Path], changes: dict[str, Any]) -> None:
    folder = model_copy()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json"):
        inspect_model(folder)


def test_building_on_meta_leaves_the_default_device_alone(tiny_model: Callable[[str], Path]) -> None:
    empty_model(tiny_model("llama"))
    assert torch.zeros(1).device.type == "cpu"
