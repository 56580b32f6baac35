"""Older programs find their own names beside those of transformers 5, and transformers 5 reads the same as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from lora_studio.core.control import TaskContext
from lora_studio.models.fingerprint import weight_fingerprint
from lora_studio.models.prepare import prepare
from lora_studio.models.spellings import both_spellings, mend_folder, spelled_tokenizer, what_older_readers_lack
from lora_studio.models.tree_cache import config_hash
from tests.models.tiny_gguf import write_tiny_gguf
from tests.tiny import tiny_config

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}


def written(architecture: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Return config.json as transformers 5 writes it."""
    tiny_config(architecture, **changes).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def method(told: dict[str, Any]) -> dict[str, Any]:
    """Return rotary settings without what stands beside `rope_scaling`."""
    return {key: value for key, value in told.items() if key not in ("rope_theta", "partial_rotary_factor")}


@pytest.mark.parametrize(
    ("architecture", "rope"),
    [
        *((name, {"rope_type": "default", "rope_theta": 12345.0}) for name in ("llama", "mistral", "qwen3", "qwen3_moe", "phi3")),
        ("llama", LLAMA3),
        ("mistral", YARN),
        ("qwen3", {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0}),
        ("qwen3_moe", {"rope_type": "dynamic", "rope_theta": 5e4, "factor": 2.0}),
    ],
)
def test_flat_names_say_what_transformers_5_computes_with(architecture: str, rope: dict[str, Any], tmp_path: Path) -> None:
    found = both_spellings(written(architecture, tmp_path, rope_parameters=dict(rope)))
    meant = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert found["rope_theta"] == meant["rope_theta"] == rope["rope_theta"]
    assert found.get("partial_rotary_factor") == meant.get("partial_rotary_factor")
    if rope["rope_type"] == "default":
        assert found["rope_scaling"] is None
    else:
        assert method(found["rope_scaling"]) == {**method(meant), "type": meant["rope_type"]}
        assert found["rope_scaling"]["rope_theta"] == meant["rope_theta"]


def test_phi3_has_its_share_and_no_more_than_the_three_keys_that_it_knew(tmp_path: Path) -> None:
    rope = {**LONGROPE, "partial_rotary_factor": 0.5, "short_factor": [1.0] * 2, "long_factor": [2.0] * 2}
    found = both_spellings(written("phi3", tmp_path, rope_parameters=rope))
    assert found["partial_rotary_factor"] == AutoConfig.from_pretrained(tmp_path).rope_parameters["partial_rotary_factor"] == 0.5
    assert found["rope_scaling"] == {"type": "longrope", "short_factor": [1.0] * 2, "long_factor": [2.0] * 2}


def test_a_longrope_with_more_to_say_loses_nothing_in_transformers_5(tmp_path: Path) -> None:
    written("phi3", tmp_path, rope_parameters={**LONGROPE, "attention_factor": 1.5})
    mend_folder(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters["attention_factor"] == 1.5


def test_gemma3_has_both_thetas_its_scaling_and_its_pattern(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    found = both_spellings(written("gemma3", tmp_path, rope_parameters=GEMMA3, layer_types=kinds, num_hidden_layers=6))
    meant = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert found["rope_theta"] == meant["full_attention"]["rope_theta"] == 3e5
    assert found["rope_local_base_freq"] == meant["sliding_attention"]["rope_theta"] == 2e4
    assert found["rope_scaling"] == {"rope_type": "linear", "type": "linear", "factor": 8.0, "rope_theta": 3e5}
    assert found["sliding_window_pattern"] == 3


@pytest.mark.parametrize(("kinds", "pattern"), [("SSSSSF", 6), ("SF", 2), ("FFF", 1), ("SSS", 4), ("SFSSFS", None), ("FS", None)])
def test_a_pattern_is_told_only_where_layers_slide_by_one(kinds: str, pattern: int | None) -> None:
    config = {"model_type": "gemma3_text", "layer_types": [{"S": "sliding_attention", "F": "full_attention"}[kind] for kind in kinds]}
    assert both_spellings(config).get("sliding_window_pattern") == pattern
    assert bool(what_older_readers_lack(config)) == (pattern is None)


def test_gpt_neox_and_experts_have_the_names_of_before(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5}
    neox = both_spellings(written("gpt_neox", tmp_path / "neox", rope_parameters=rope))
    assert (neox["rotary_emb_base"], neox["rotary_pct"]) == (777.0, 0.5)
    moe = both_spellings(written("qwen3_moe", tmp_path / "moe"))
    assert moe["num_experts"] == moe["num_local_experts"] == 4


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "torch_dtype": "bfloat16", "rope_theta": 1e5, "rope_scaling": None},
        {"model_type": "gpt2", "dtype": "float32"},
        {"model_type": "llama", "dtype": "float16"},
    ],
)
def test_a_dtype_has_both_names_and_a_config_of_before_stays_what_it_was(config: dict[str, Any]) -> None:
    found = both_spellings(config)
    assert found["dtype"] == found["torch_dtype"]
    assert config.items() <= found.items()
    assert not found.keys() - config.keys() - {"dtype", "torch_dtype"}


def test_older_names_that_contradict_rope_parameters_are_put_right() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e5}
    found = both_spellings({"model_type": "llama", "rope_parameters": rope, "rope_theta": 1e4, "rope_scaling": None})
    assert found["rope_theta"] == 1e5
    kept = {"model_type": "llama", "rope_parameters": rope, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert both_spellings(kept) == kept, "here transformers 5 goes by rope_scaling and rope_theta"


def test_a_config_inside_a_config_has_them_too() -> None:
    inner = {"model_type": "gemma3_text", "rope_parameters": GEMMA3, "dtype": "bfloat16"}
    found = both_spellings({"model_type": "gemma3", "text_config": inner, "vision_config": {"model_type": "siglip_vision_model"}})
    assert found["text_config"]["rope_local_base_freq"] == 2e4
    assert found["text_config"]["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("granitemoehybrid", "layer_types"),
        ("zamba", "layers_block_type"),
        ("zamba2", "layers_block_type"),
    ],
)
def test_kinds_of_layers_have_names_that_both_read(family: str, name: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    before = getattr(AutoConfig.from_pretrained(tmp_path), name)
    mend_folder(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert set(written[name]) <= {"mamba", "attention", "hybrid"}
    assert getattr(AutoConfig.from_pretrained(tmp_path), name) == before


def test_kinds_of_layers_that_no_older_program_knew_are_told_of() -> None:
    told = what_older_readers_lack({"model_type": "gemma4_text", "rope_parameters": GEMMA3})
    assert "gemma4_text" in told
    assert not what_older_readers_lack({"model_type": "gemma3_text", "rope_parameters": GEMMA3})


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "mistral", "phi3", "gpt2", "gpt_neox", "qwen3_moe"])
@pytest.mark.parametrize("scaled", [False, True])
def test_transformers_5_reads_the_same_as_before(architecture: str, scaled: bool, tmp_path: Path) -> None:
    scaling = {"gemma3": GEMMA3, "phi3": LONGROPE, "gpt_neox": {"rope_type": "default", "rope_theta": 9.0, "partial_rotary_factor": 0.5}}
    changes = {"rope_parameters": scaling.get(architecture, LLAMA3)} if scaled and architecture != "gpt2" else {}
    written(architecture, tmp_path, **changes)
    before = AutoConfig.from_pretrained(tmp_path)
    mend_folder(tmp_path)
    after = AutoConfig.from_pretrained(tmp_path)
    same = {key: after.to_dict()[key] for key in before.to_dict()}
    for told in (same.get("rope_parameters", {}), *(same.get("rope_parameters", {}).get(kind, {}) for kind in GEMMA3)):
        told.pop("type", None)
    assert same == before.to_dict()
    once = (tmp_path / "config.json").read_text()
    mend_folder(tmp_path)
    assert (tmp_path / "config.json").read_text() == once


def test_a_tokenizer_is_of_a_class_and_has_tokens_that_older_programs_know(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "copy"))
    before = AutoTokenizer.from_pretrained(folder)
    mend_folder(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert not isinstance(settings.get("extra_special_tokens"), list)
    assert settings["chat_template"] == (folder / "chat_template.jinja").read_text() == before.chat_template
    after = AutoTokenizer.from_pretrained(folder)
    text = "Dear <|im_start|>user\nparcel<|im_end|> 123 é"
    assert after(text).input_ids == before(text).input_ids
    assert (after.all_special_tokens, after.chat_template) == (before.all_special_tokens, before.chat_template)


def test_a_tokenizer_class_of_its_own_and_named_tokens_stay() -> None:
    settings = {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": {"image_token": "<image>"}}
    assert spelled_tokenizer(settings, None) == settings


def test_a_base_converted_earlier_is_mended_in_place(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    file = write_tiny_gguf(tiny_model("llama"), tmp_path / "tiny.gguf", "llama")
    *_, last = prepare(TaskContext(), str(file))
    folder = Path(last.result["path"])
    fresh = {name: (folder / name).read_text() for name in ("config.json", "tokenizer_config.json")}
    newer = ("rope_theta", "rope_scaling", "torch_dtype")
    config = {key: value for key, value in json.loads(fresh["config.json"]).items() if key not in newer}
    settings = {**json.loads(fresh["tokenizer_config.json"]), "tokenizer_class": "TokenizersBackend"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    known = weight_fingerprint(folder), config_hash(folder)
    list(prepare(TaskContext(), str(file)))
    assert {name: json.loads((folder / name).read_text()) for name in fresh} == {name: json.loads(text) for name, text in fresh.items()}
    assert (weight_fingerprint(folder), config_hash(folder)) == known


def test_longcats_layers_stay_as_many_to_transformers_5() -> None:
    config = AutoConfig.for_model("longcat_flash", num_layers=3).to_dict()
    assert AutoConfig.for_model(**both_spellings(config)).num_layers == 3
