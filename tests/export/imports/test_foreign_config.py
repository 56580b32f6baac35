"""An adapter's config is looked at before it is obeyed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.errors import InputError
from lora_studio.export.imports.foreign_config import is_quick, read_foreign_config, replace_patterns
from tests.export.handmade import CONFIG, write_adapter


def read(folder: Path, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    config, findings = read_foreign_config(folder)
    return config, [finding.code for finding in findings]


def test_a_plain_config_is_read_without_a_remark(tmp_path: Path) -> None:
    config, codes = read(tmp_path)
    assert (config, codes) == (CONFIG, [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "os"}}, "code of its own"),
        ({"auto_mapping": {"parent_library": "transformers_evil"}}, "code of its own"),
        ({"auto_mapping": {"parent_library": "transformers.models;import os"}}, "code of its own"),
        ({"auto_mapping": {"parent_library": ["os"]}}, "code of its own"),
        ({"auto_mapping": "os"}, "code of its own"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "code of its own"),
        ({"layer_replication": [[0, 100_000_000]]}, "copies of layers"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": ["LORA"]}, "peft_type is"),
        ({"r": "8"}, "r is '8', not a whole number"),
        ({"r": -8}, "r is -8"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": 10**9}, "r is 1000000000"),
        ({"r": None}, "names no r"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"lora_dropout": 2}, "lora_dropout is 2"),
        ({"target_modules": None}, "names no target_modules"),
        ({"target_modules": ["q"] * 1_000}, ""),
        ({"target_modules": [f"m{number}" for number in range(60_000)]}, "a list of 60,000"),
        ({"target_modules": ["x" * 3000]}, "target_modules is"),
        ({"target_modules": [8]}, "target_modules is"),
        ({"target_modules": ["\x1b[2J"]}, "target_modules is"),
        ({"target_modules": {"q": 1}}, "target_modules is"),
        ({"rank_pattern": {"q_proj": "8"}}, "rank_pattern is"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern is"),
        ({"alpha_pattern": [1]}, "alpha_pattern is"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is"),
        ({"bias": ["none"]}, "bias is"),
        ({"use_dora": "yes"}, "use_dora is"),
        ({"init_lora_weights": "__import__('os')"}, "init_lora_weights is"),
        ({"trainable_token_indices": [-1]}, "trainable_token_indices is"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform is"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path is"),
        ({"base_model_name_or_path": "\x1b]0;evil\x07"}, "base_model_name_or_path is"),
    ],
)
def test_what_is_not_obeyed_is_refused_by_its_name(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    if not told:
        read(tmp_path, **changes)  # a thousand names are many, and no attack
        return
    with pytest.raises(InputError) as raised:
        read(tmp_path, **changes)
    assert told in raised.value.message
    assert len(raised.value.message) < 300
    assert raised.value.hint


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "not a table"),
        (b"null", "not a table"),
        (b'{"peft_type": "LORA", "x": ' + b"[" * 1_500 + b"]" * 1_500 + b"}", "JSON|deep"),
        (b'{"peft_type": "LORA", "x": ' + b"[" * 50 + b"]" * 50 + b"}", "more than 12 deep"),
        (b" " * 1_100_000 + b"{}", "more than such a file needs"),
    ],
)
def test_what_is_no_config_is_refused(raw: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(raw)
    with pytest.raises(InputError, match=told):
        read_foreign_config(tmp_path)


@pytest.mark.parametrize("library", ["transformers", "transformers.models.llama.modeling_llama", "peft.peft_model"])
def test_the_mapping_that_peft_writes_itself_is_no_attack(library: str, tmp_path: Path) -> None:
    assert read(tmp_path, auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": library})[1] == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"shiny_new_setting": 3}, "unknown_settings"),
        ({"use_qalora": True}, "variant"),
        ({"alora_invocation_tokens": [1]}, "variant"),
        ({"init_lora_weights": "pissa"}, "changed_base"),
        ({"init_lora_weights": "pissa_niter_16"}, "changed_base"),
        ({"init_lora_weights": "olora"}, "changed_base"),
    ],
)
def test_what_a_person_should_know_is_found(changes: dict[str, Any], code: str, tmp_path: Path) -> None:
    assert read(tmp_path, **changes)[1] == [code]


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        (r".*\.(q_proj|v_proj)", True),
        (r"model\.layers\.\d+\.self_attn\.q_proj", True),
        ("q_proj", True),
        (r"^(?!.*vision).*q_proj$", True),
        ("(ab){1,2}$", False),
        ("(a|b){1,2}c", False),
        (r"(x?y){1,2}z", False),
        ("a?b?c?d?e?x", False),
        (r"([\w.]y){2}!", False),
        ("(", False),
        ("a{1,99999999999}", False),
        ("(q)" * 101, False),
        ("(q)" * 100, True),
    ],
)
def test_patterns_that_could_take_for_ever_are_told_from_those_that_end_soon(pattern: str, quick: bool) -> None:
    assert is_quick(pattern) is quick


def test_a_slow_pattern_of_targets_becomes_the_modules_in_the_file(tmp_path: Path) -> None:
    config, _codes = read(tmp_path, target_modules="(.x)?q_proj", exclude_modules="(ab){1,2}", layers_to_transform=[0])
    replaced, findings = replace_patterns(config, {"layers.1.q_proj", "layers.0.q_proj"})
    assert replaced["target_modules"] == ["layers.0.q_proj", "layers.1.q_proj"]
    assert replaced["exclude_modules"] is replaced["layers_to_transform"] is None
    assert [finding.code for finding in findings] == ["pattern_replaced"]


def test_a_quick_pattern_stays_as_it_is(tmp_path: Path) -> None:
    config, _codes = read(tmp_path, target_modules=r".*\.q_proj")
    assert replace_patterns(config, ["q_proj"]) == (config, [])


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_slow_pattern_of_ranks_is_refused(key: str, tmp_path: Path) -> None:
    config, _codes = read(tmp_path, **{key: {"(ab){1,2}$": 8}})
    with pytest.raises(InputError, match=f"pattern of {key} could take for ever"):
        replace_patterns(config, [])


def test_an_adapter_that_peft_wrote_is_read(tmp_path: Path) -> None:
    import peft

    peft.LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    assert read_foreign_config(tmp_path)[1] == []


def test_every_setting_of_the_installed_peft_is_known(tmp_path: Path) -> None:
    import peft

    write_adapter(tmp_path)
    changes = dict.fromkeys(peft.LoraConfig.__dataclass_fields__) | {"r": 8, "target_modules": ["q"], "peft_type": "LORA"}
    assert "unknown_settings" not in read(tmp_path, **changes)[1]
