"""What `resolve` says of settings that are wrong: the field, the name, and the way out."""

from __future__ import annotations

import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import PRESETS, all_linear, attention, mlp, resolve, targetable_below
from tests.core.trees import transformer, tree_from


def adapter(**fields: object) -> AdapterSettings:
    return AdapterSettings.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"target_modules": ["qq_proj"]}, "target_unmatched", "adapter.target_modules"),
        ({"target_modules": ["q_proj"], "target_parameters": ["gate_up_proj"]}, "target_unmatched", "adapter.target_parameters"),
        ({"target_modules": ["mlp"]}, "not_targetable", "adapter.target_modules"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "targets_excluded", "adapter.exclude_modules"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [7]}, "layers_unmatched", "adapter.layers_to_transform"),
        ({"target_modules": "all-linear", "layers_to_transform": [0]}, "layers_with_all_linear", "adapter.layers_to_transform"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"q_(": 4}}, "setting_refused", "adapter.rank_pattern"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["nothing"]}, "saved_unmatched", "adapter.modules_to_save"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["proj"]}, "saved_adapted", "adapter.modules_to_save"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["layer"]}, "saved_unmatched", "adapter.modules_to_save"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["model", "model.norm"]}, "targets_excluded", "adapter.exclude_modules"),
        ({"target_modules": []}, "no_target", "adapter.target_modules"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(fields: dict[str, object], code: str, field: str) -> None:
    resolution = resolve(adapter(**fields), transformer(2))
    first = resolution.errors[0]
    assert (first.code, first.field) == (code, field)
    assert first.hint
    with pytest.raises(InputError) as caught:
        resolution.check()
    assert caught.value.message == first.message


def test_an_unmatched_target_is_named_beside_what_there_is() -> None:
    finding = resolve(adapter(target_modules=["qq_proj"]), transformer(2)).errors[0]
    assert "'qq_proj'" in finding.message
    assert "q_proj" in finding.hint


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"exclude_modules": ["nowhere"]}, "exclude_unmatched"),
        ({"rank_pattern": {"nowhere": 4}}, "pattern_unused"),
        ({"modules_to_save": ["orm"]}, "saved_by_ending"),
    ],
)
def test_what_does_nothing_is_a_warning(fields: dict[str, object], code: str) -> None:
    resolution = resolve(adapter(target_modules=["q_proj"], **fields), transformer(2))
    assert [(finding.level, finding.code) for finding in resolution.findings] == [("warning", code)]


def test_experts_refuse_dropout_and_dora() -> None:
    tree = tree_from(["m.h.0.q"], parameters=["m.h.0.experts.down_proj"])
    settings = adapter(target_modules=[], target_parameters=["down_proj"], lora_dropout=0.1, use_dora=True)
    assert [finding.field for finding in resolve(settings, tree).errors] == ["adapter.lora_dropout", "adapter.use_dora"]


@pytest.mark.parametrize(
    ("entries", "told_of"),
    [
        (["m.h.0.mlp.down_proj"], "no adapter goes on m.h.0.mlp.down_proj: "),
        (["mlp.down_proj"], "no adapter goes on m.h.0.mlp.down_proj and 1 more: "),
        (["down_proj"], None),
        (["experts.down_proj"], None),
        (["m.h.0.q_proj"], None),
    ],
)
def test_a_module_that_peft_takes_for_the_experts_is_told_of(entries: list[str], told_of: str | None) -> None:
    """PEFT 0.21 puts the adapter on the experts of all layers and none on the dense layer that is named."""
    names = ["m.h.0.q_proj", "m.h.0.mlp.down_proj", "m.h.1.mlp.down_proj"]
    tree = tree_from(names, parameters=["m.h.2.mlp.experts.down_proj", "m.h.2.mlp.experts.gate_up_proj"], model_type="qwen3_moe")
    resolution = resolve(adapter(target_modules=entries), tree)
    told = [finding for finding in resolution.findings if finding.code == "taken_for_experts"]
    assert [finding.subject for finding in told] == (entries if told_of else [])
    assert told_of is None or f"target_modules: {told_of}" in told[0].message
    if entries != ["m.h.0.q_proj"]:
        assert [target.name for target in resolution.targets] == ["m.h.2.mlp.experts.down_proj"]


def test_presets_part_the_linear_layers_into_attention_and_mlp() -> None:
    tree = transformer(3)
    assert attention(tree) | mlp(tree) == all_linear(tree)
    assert not attention(tree) & mlp(tree)
    assert {name.rpartition(".")[2] for name in attention(tree)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert "lm_head" not in all_linear(tree)
    assert PRESETS["none"](tree) == frozenset()


def test_a_tick_on_a_row_means_all_that_can_be_targeted_below() -> None:
    tree = transformer(3)
    assert len(targetable_below("model.layers.1", tree)) == 7
    assert targetable_below("model.layers.1.self_attn.q_proj", tree) == {"model.layers.1.self_attn.q_proj"}
    assert targetable_below("", tree) == all_linear(tree) | {"lm_head"}
