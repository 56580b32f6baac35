"""Settings as a person may type them, against what PEFT makes of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_studio.adapters.config import to_lora_config
from lora_studio.core.counts import all_parameters, trainable_parameters
from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import resolve
from lora_studio.core.targets.fused import MIXTRAL_FAMILY, QWEN_FAMILY, rewritten_names
from lora_studio.core.targets.matching import suffixes
from tests.adapters.oracle import inject, injected, meta_model, model_of, reloaded_config, tree_of
from tests.tiny import ARCHITECTURES

PROPERTY = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tree(architecture: str) -> ModuleTree:
    return tree_of(meta_model(architecture))


def adapter(**fields: object) -> AdapterSettings:
    return AdapterSettings.model_validate(fields)


@st.composite
def typed(draw: st.DrawFn, tree: ModuleTree) -> AdapterSettings:
    """Settings made of real and made-up endings, without the tree's help."""
    wrapped = sorted({suffix for module in tree.targetable if module.kind != "experts" for suffix in suffixes(module.name)})
    inside = sorted({suffix for module in tree.targetable if module.kind == "experts" for suffix in suffixes(module.name)})
    anything = sorted({suffix for module in tree.modules for suffix in suffixes(module.name)} - {""})
    entry = st.sampled_from(wrapped)
    expressions = st.sampled_from([r".*\.0\..*", r"layers\.[01]\.mlp\..*", "^model.*"])
    keys = st.one_of(entry, entry.map(lambda name: name.replace(".", r"\.")), expressions)
    short, long = st.lists(entry, min_size=1, max_size=4), st.lists(entry, min_size=22, max_size=30)
    return adapter(
        r=draw(st.integers(1, 9)),
        lora_alpha=draw(st.sampled_from([1, 8, 0.5])),
        target_modules=draw(st.one_of(st.just("all-linear"), short, long)),
        target_parameters=draw(st.lists(st.sampled_from(inside), max_size=2)) if inside else [],
        exclude_modules=draw(st.lists(st.one_of(entry, st.sampled_from([*anything, "nowhere"])), max_size=2)),
        layers_to_transform=draw(st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=2))),
        rank_pattern=draw(st.dictionaries(keys, st.integers(1, 16), max_size=3)),
        alpha_pattern=draw(st.dictionaries(keys, st.integers(1, 16), max_size=3)),
    )


def raw_config(settings: AdapterSettings) -> Any:
    """What a person gets who gives the same settings to PEFT without us."""
    return to_lora_config(settings)


def test_typed_settings_mean_what_peft_makes_of_them(architecture: str, tree: ModuleTree, tmp_path: Path) -> None:
    compared = 0

    @PROPERTY
    @given(settings=typed(tree))
    def check(settings: AdapterSettings) -> None:
        nonlocal compared
        resolution = resolve(settings, tree)
        wanted = {target.name: target.r for target in resolution.targets}
        try:
            peft_model = inject(meta_model(architecture), raw_config(settings))
        except (ValueError, TypeError, NotImplementedError):
            assert resolution.errors
            return
        found = injected(peft_model)
        if not resolution.errors:
            compared += 1
            assert found.ranks == wanted
            assert found.trainable == trainable_parameters(resolution.adapter, tree, resolution)
            ours = inject(meta_model(architecture), to_lora_config(settings, tree))
            assert injected(ours).ranks == found.ranks
            assert injected(ours).scalings == found.scalings
            again = injected(inject(meta_model(architecture), reloaded_config(ours, tmp_path)))
            assert (again.ranks, again.scalings) == (found.ranks, found.scalings)

    check()
    assert compared > 2


@pytest.mark.parametrize(("targets", "expected"), [(["c_attn"], 294_912), (["c_attn", "c_proj"], 811_008)])
def test_gpt2_at_rank_8_counts_what_the_paper_trail_says(targets: list[str], expected: int) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("gpt2")
    tree = tree_of(model_of(config))
    given_settings = adapter(r=8, target_modules=targets)
    resolution = resolve(given_settings, tree).check()
    assert trainable_parameters(given_settings, tree, resolution) == expected
    found = injected(inject(model_of(config), to_lora_config(given_settings, tree)))
    assert (found.trainable, found.total) == (expected, all_parameters(given_settings, tree, resolution))


@pytest.mark.parametrize(
    ("name", "entries", "bias"),
    [
        ("llama", ["lm_head"], "none"),
        ("gemma3", ["lm_head"], "none"),
        ("qwen3", ["embed_tokens"], "none"),
        ("gpt_neox", ["final_layer_norm"], "all"),
        ("gpt2", ["ln_f", "lm_head"], "all"),
        ("gpt2", ["transformer.h.0.mlp"], "lora_only"),
        ("llama", ["norm"], "none"),
    ],
)
def test_modules_saved_in_full_are_counted_as_peft_does(name: str, entries: list[str], bias: str) -> None:
    tree = tree_of(meta_model(name))
    given_settings = adapter(target_modules="all-linear", modules_to_save=entries, bias=bias, use_dora=True)
    resolution = resolve(given_settings, tree).check()
    found = injected(inject(meta_model(name), to_lora_config(given_settings, tree)))
    assert found.saved == set(resolution.saved_modules)
    assert found.ranks.keys() == resolution.by_name.keys()
    assert found.trainable == trainable_parameters(given_settings, tree, resolution)
    assert found.total == all_parameters(given_settings, tree, resolution)


def test_an_untied_embedding_and_head_can_be_targeted() -> None:
    tree = tree_of(meta_model("llama"))
    for dora in (False, True):
        given_settings = adapter(target_modules=["embed_tokens", "lm_head"], use_dora=dora)
        resolution = resolve(given_settings, tree).check()
        found = injected(inject(meta_model("llama"), to_lora_config(given_settings, tree)))
        assert found.ranks == {"model.embed_tokens": 8, "lm_head": 8}
        assert found.trainable == trainable_parameters(given_settings, tree, resolution)


def test_all_linear_on_fused_experts_adds_experts_and_router() -> None:
    tree = tree_of(meta_model("qwen3_moe"))
    resolution = resolve(adapter(r=4, target_modules="all-linear"), tree).check()
    assert {target.name: target.r for target in resolution.targets if ".0.mlp" in target.name} == {
        "model.layers.0.mlp.experts.gate_up_proj": 8,
        "model.layers.0.mlp.experts.down_proj": 4,
        "model.layers.0.mlp.gate.weight": 4,
    }
    found = injected(inject(meta_model("qwen3_moe"), raw_config(adapter(r=4, target_modules="all-linear"))))
    assert found.ranks == {target.name: target.r for target in resolution.targets}


def test_half_of_a_fused_pair_is_refused_with_the_cure() -> None:
    tree = tree_of(meta_model("qwen3_moe"))
    errors = resolve(adapter(target_modules=["q_proj", "gate_proj"]), tree).errors
    assert [error.field for error in errors] == ["adapter.target_modules"]
    assert "up_proj" in errors[0].message
    assert "target_parameters" in errors[0].hint


def test_the_families_peft_rewrites_are_the_ones_we_know() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as LOADED

    families = {
        family: {name for name, known in _MODEL_TO_CONVERSION_PATTERN.items() if known == family} for family in _MOE_TARGET_MODULE_MAPPING
    }
    # PEFT goes by transformers' own table, to which releases add types: what one does not rewrite it must not load either.
    known = {"mixtral": set(MIXTRAL_FAMILY), "qwen2_moe": set(QWEN_FAMILY)}
    assert families == {family: {name for name in names if name in families[family] or name in LOADED} for family, names in known.items()}
    assert {family: rewritten_names(min(members)) for family, members in families.items()} == _MOE_TARGET_MODULE_MAPPING
