from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import inspect_model
from tests.tiny import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_facts_from_files_agree_with_the_model_built_from_its_config(architecture: str, tiny_model: Callable[[str], Path]) -> None:
    facts, tree = read_facts(tiny_model(architecture)), inspect_model(tiny_model(architecture))
    assert (facts.architecture, facts.model_type) == (tree.architecture, tree.model_type)
    assert facts.parameters == tree.all_parameters
    assert facts.tied_embeddings == tree.tied_embeddings
    assert (facts.layers, facts.hidden_size, facts.vocab_size, facts.heads, facts.head_dim) == (2, 32, 384, 4, 8)
    assert facts.dtype == "float32"
    assert facts.bytes_on_disk == (tiny_model(architecture) / "model.safetensors").stat().st_size
    assert facts.max_position_embeddings == 256
    assert facts.has_chat_template


def test_experts_are_counted(tiny_model: Callable[[str], Path]) -> None:
    facts = read_facts(tiny_model("qwen3_moe"))
    assert (facts.experts, facts.experts_per_token, facts.intermediate_size, facts.kv_heads) == (4, 2, 16, 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_config_alone_gives_all_but_the_weights(architecture: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model(architecture) / "config.json").read_bytes())
    whole, alone = read_facts(tiny_model(architecture)), read_facts(tmp_path)
    assert (alone.parameters, alone.bytes_on_disk, alone.has_chat_template) == (None, 0, False)
    assert (alone.architecture, alone.layers, alone.tied_embeddings) == (whole.architecture, whole.layers, whole.tied_embeddings)
    assert alone.dtype == "float32"


def test_tied_head_that_is_stored_too_counts_once(model_copy: Callable[..., Path]) -> None:
    from safetensors.numpy import load_file, save_file

    folder = model_copy("qwen3")
    before = read_facts(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].copy()}, folder / "model.safetensors")
    assert read_facts(folder).parameters == before.parameters


def test_causal_masks_of_old_gpt2_files_are_no_parameters(model_copy: Callable[..., Path]) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = model_copy("gpt2")
    before = read_facts(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32)}, folder / "model.safetensors")
    assert read_facts(folder).parameters == before.parameters


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: [broken\n---\n", ""),
        ("# No front matter\n---\nlicense: mit\n---\n", ""),
        ("", ""),
    ],
)
def test_licence_comes_from_the_model_card(model_copy: Callable[..., Path], card: str, licence: str) -> None:
    folder = model_copy()
    (folder / "README.md").write_text(card, encoding="utf-8")
    assert read_facts(folder).licence == licence


def test_text_part_of_a_multimodal_config_is_what_counts(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    text = json.loads((tiny_model("gemma3") / "config.json").read_text(encoding="utf-8"))
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(outer), encoding="utf-8")
    facts = read_facts(tmp_path)
    assert (facts.layers, facts.hidden_size, facts.model_type, facts.tied_embeddings) == (2, 32, "gemma3", True)


def test_the_text_part_is_found_however_deep_it_lies(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4}
    config = {"model_type": "omni", "thinker_config": {"text_config": text}, "num_hidden_layers": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_facts(tmp_path)
    assert (found.layers, found.hidden_size, found.heads) == (3, 32, 4)


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"layers_block_type": ["mamba", "attention", "moe"]}, 3),
        ({"hybrid_override_pattern": "M-M*"}, 4),
        ({"decoder_layers": 6}, 6),
        ({"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}, 2),
    ],
)
def test_layers_are_counted_where_a_config_lists_their_kinds_alone(tmp_path: Path, config: dict[str, object], layers: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "any", **config}))
    assert read_facts(tmp_path).layers == layers
