"""Which program serves which adapter: a rule at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.export.card.compatibility import Compatibility, compatibility, merged_compatibility
from lora_studio.export.gguf.fit import beyond_gguf
from lora_studio.export.gguf.llama_families import LLAMA_CPP_FAMILIES, family_beyond_gguf, model_beyond_gguf
from lora_studio.models.facts import ModelFacts
from tests.export.handmade import tensors_of, write_adapter

LLAMA = ModelFacts("LlamaForCausalLM", "llama", 1000, 2, "float32", 4000, tied_embeddings=False)
QWEN3 = replace(LLAMA, architecture="Qwen3ForCausalLM", model_type="qwen3")
GPT2 = replace(LLAMA, architecture="GPT2LMHeadModel", model_type="gpt2")
UNHEARD_OF = replace(LLAMA, architecture="NovelForCausalLM", model_type="novel")
EMBEDDING = {
    "base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 384), np.float32),
    "base_model.model.model.embed_tokens.lora_embedding_B": np.zeros((32, 4), np.float32),
}


def answers(folder: Path, facts: ModelFacts | None = LLAMA, tensors: Any = None, **changes: Any) -> dict[str, Compatibility]:
    return {entry.program: entry for entry in compatibility(write_adapter(folder, tensors, **changes), facts)}


def said(found: dict[str, Compatibility]) -> dict[str, str]:
    return {program: entry.answer for program, entry in found.items()}


def test_a_plain_adapter_of_a_llama_is_served_by_all_by_mlx_in_its_own_format(tmp_path: Path) -> None:
    found = answers(tmp_path)
    assert said(found) == {"PEFT": "yes", "vLLM": "yes", "llama.cpp": "yes", "Ollama": "yes", "MLX": "yes"}
    assert found["MLX"].reason.startswith("as an MLX adapter, by --adapter-path")
    assert all(not entry.remedy for entry in found.values() if entry.answer == "yes")


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        ({"use_dora": True}, "DoRA", "use_dora off"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save", "Merge it"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices", "Merge it"),
        ({"bias": "lora_only"}, "biases", "bias none"),
        ({"lora_bias": True}, "biases", "Merge it"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters", "Merge it"),
    ],
)
def test_what_is_more_than_a_and_b_is_served_by_peft_alone_until_merged(
    changes: dict[str, Any], reason: str, remedy: str, tmp_path: Path
) -> None:
    found = answers(tmp_path, **changes)
    assert said(found) == {"PEFT": "yes", "vLLM": "no", "llama.cpp": "no", "Ollama": "no", "MLX": "yes" if "use_dora" in changes else "no"}
    for program in ("vLLM", "llama.cpp", "Ollama"):
        assert reason in found[program].reason
        assert remedy in found[program].remedy


@pytest.mark.parametrize(("rank", "flag"), [(17, 32), (64, 64), (300, 320), (512, 512)])
def test_a_rank_beyond_vllms_usual_one_names_the_flag_with_the_next_allowed_rank(rank: int, flag: int, tmp_path: Path) -> None:
    found = answers(tmp_path, r=rank)
    assert (found["vLLM"].answer, found["vLLM"].remedy) == ("no", f"Start vLLM with --max-lora-rank {flag}.")
    assert found["llama.cpp"].answer == "yes"


def test_vllm_has_no_rank_beyond_512(tmp_path: Path) -> None:
    found = answers(tmp_path, r=513)["vLLM"]
    assert "largest rank is 512, this one's is 513" in found.reason
    assert "--max-lora-rank" not in found.remedy


def test_rank_16_needs_no_flag(tmp_path: Path) -> None:
    assert answers(tmp_path, r=16)["vLLM"].answer == "yes"


def test_patterns_are_not_read_by_vllm_and_are_in_b_for_llama_cpp(tmp_path: Path) -> None:
    by_alpha = answers(tmp_path / "alpha", alpha_pattern={"q_proj": 16})
    mixed = {**tensors_of(2, q_proj=(32, 32)), **tensors_of(4, v_proj=(16, 32))}
    by_rank = answers(tmp_path / "rank", tensors=mixed, rank_pattern={"q_proj": 2})
    for found in (by_alpha, by_rank):
        assert "rank_pattern or alpha_pattern" in found["vLLM"].reason
        assert found["vLLM"].remedy == "Merge it into the base model."
        assert found["llama.cpp"].answer == "yes"


def test_rslora_is_read_by_vllm(tmp_path: Path) -> None:
    assert answers(tmp_path, use_rslora=True)["vLLM"].answer == "yes"


def test_an_adapter_on_the_embedding_is_for_peft(tmp_path: Path) -> None:
    found = answers(tmp_path, tensors={**tensors_of(), **EMBEDDING})
    assert [found[program].answer for program in ("vLLM", "llama.cpp", "Ollama")] == ["no", "no", "no"]


def test_ollamas_own_engine_takes_no_adapters_but_llama_cpp_does(tmp_path: Path) -> None:
    found = answers(tmp_path, QWEN3)
    assert (found["Ollama"].answer, found["llama.cpp"].answer, found["vLLM"].answer) == ("no", "yes", "yes")
    assert found["Ollama"].remedy == "Merge it and export the model as GGUF, or serve it with llama.cpp."


def test_vllm_takes_no_adapters_for_gpt2(tmp_path: Path) -> None:
    found = answers(tmp_path, GPT2)
    assert "GPT2LMHeadModel" in found["vLLM"].reason
    assert (found["vLLM"].remedy, found["llama.cpp"].answer) == ("Merge it into the base model.", "yes")


def test_a_family_llama_cpp_is_not_known_to_have_is_left_to_peft(tmp_path: Path) -> None:
    found = answers(tmp_path, UNHEARD_OF, use_dora=True)
    assert found["llama.cpp"].remedy == found["Ollama"].remedy == "Serve it with PEFT."


def test_several_problems_are_all_told_with_the_one_remedy_for_all(tmp_path: Path) -> None:
    found = answers(tmp_path, r=64, use_dora=True)["vLLM"]
    assert "DoRA" in found.reason
    assert "64" in found.reason
    assert found.remedy == "Merge it into the base model."


def test_without_the_base_it_says_that_its_family_was_not_looked_at(tmp_path: Path) -> None:
    found = answers(tmp_path, None)
    assert found["vLLM"].answer == "yes"
    assert "was not looked at" in found["vLLM"].reason


@pytest.mark.parametrize("family", [*sorted(LLAMA_CPP_FAMILIES), "gemma3", "gpt_oss", "novel"])
def test_llama_cpp_is_promised_where_the_exporter_writes_and_nowhere_else(family: str, tmp_path: Path) -> None:
    found = answers(tmp_path, replace(LLAMA, architecture="SomeForCausalLM", model_type=family))
    written = not beyond_gguf(SavedAdapter.open(tmp_path), family, None)
    assert (found["llama.cpp"].answer == "yes") == written
    assert written or found["Ollama"].answer == "no"
    if family_beyond_gguf(family):
        assert "GGUF" not in found["llama.cpp"].remedy, "a merged model of that family is not written as GGUF either"


@pytest.mark.parametrize("family", ["gemma3", "gpt_oss"])
def test_what_is_refused_as_a_gguf_adapter_is_not_promised(family: str, tmp_path: Path) -> None:
    found = answers(tmp_path, replace(LLAMA, architecture="SomeForCausalLM", model_type=family))
    assert (found["llama.cpp"].answer, found["Ollama"].answer) == ("no", "no")
    assert family in found["llama.cpp"].reason


def test_a_measured_family_names_programs_versions_and_the_date() -> None:
    found = merged_compatibility({"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}})
    told = {entry.program: entry for entry in found}["Measured"]
    assert told.answer == "yes"
    assert "transformers 4.57.6" in told.reason
    assert "measured on" in told.reason


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "novel"},
        {"model_type": "llama", "rope_parameters": {"rope_type": "unheard_of", "rope_theta": 1e4}},
    ],
)
def test_what_was_not_measured_is_said_to_be_so(config: dict[str, Any]) -> None:
    (found,) = merged_compatibility(config)
    assert (found.program, found.answer) == ("Other programs", "not measured")
    assert config["model_type"] in found.told


@pytest.mark.parametrize(("family", "is_run"), [("llama", True), ("olmo2", False)])
def test_an_mlx_adapter_that_was_not_run_is_said_to_be_so(family: str, is_run: bool, tmp_path: Path) -> None:
    config = {"model_type": family, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    found = {entry.program: entry for entry in compatibility(write_adapter(tmp_path, None), replace(LLAMA, model_type=family), config)}
    assert found["MLX"].answer == "yes"
    assert ("it was not run" in found["MLX"].reason) != is_run


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True},
        {"trainable_token_indices": [1]},
        {"exclude_modules": ["k_proj"]},
        {"init_lora_weights": "pissa"},
    ],
)
def test_what_was_measured_of_plain_adapters_is_said_of_no_other(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    told = said({entry.program: entry for entry in compatibility(write_adapter(tmp_path / "plain", None), LLAMA, config)})
    assert (told["Measured"], told.get("Other programs")) == ("yes", None)
    told = said({entry.program: entry for entry in compatibility(write_adapter(tmp_path / "other", None, **changes), LLAMA, config)})
    assert (told.get("Measured"), told["Other programs"]) == (None, "not measured")


def test_what_a_family_cannot_do_in_a_program_is_said() -> None:
    longrope = {"model_type": "phi3", "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0}}
    (found,) = [entry for entry in merged_compatibility(longrope) if entry.program.startswith("mlx-lm")]
    assert found.answer == "no"
    assert "computes something else" in found.reason


def test_experts_in_older_peft_are_told_of_and_attention_alone_is_not(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_moe", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    facts = replace(LLAMA, architecture="Qwen3MoeForCausalLM", model_type="qwen3_moe")
    experts = compatibility(write_adapter(tmp_path / "experts", None, target_parameters=["mlp.experts.down_proj"]), facts, config)
    assert any(entry.program.startswith("peft 0.15.2") and entry.answer == "no" for entry in experts)
    plain = compatibility(write_adapter(tmp_path / "plain", None), facts, config)
    assert not any(entry.program.startswith("peft") for entry in plain)


@pytest.mark.parametrize(
    ("family", "file", "beyond"),
    [
        ("llama", "", False),
        ("glm4", "", True),
        ("phi3", "", True),
        ("phi3", "tokenizer.model", False),
        ("novel", "", True),
    ],
)
def test_a_model_that_the_converter_stops_at_is_not_offered_as_gguf(family: str, file: str, beyond: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    if file:
        (tmp_path / file).touch()
    reason = model_beyond_gguf(tmp_path)
    assert bool(reason) == beyond
    assert not beyond or family in reason
    assert bool(model_beyond_gguf(tmp_path, own_converter=True)) == (beyond and family != "glm4")
