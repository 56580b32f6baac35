"""What the tree calls targetable trains one step, in families with more than attention and an MLP."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lora_studio.adapters.inject import inject
from lora_studio.core.config import RunConfig
from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import PRESETS, Selection, compile_selection, resolve, targetable_below
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import tree_of
from lora_studio.models.trial import idle_modules
from lora_studio.planning.device import Device
from lora_studio.planning.plan import make_plan
from lora_studio.planning.tiles import scores_at_once
from tests.odd_families import family_config, family_model, meta_family

FAMILIES = (
    "falcon_h1",
    "mamba",
    "nemotron_h",
    "llama4_text",
    "phimoe",
    "recurrent_gemma",
    "deepseek_v32",
    "hunyuan_v1_moe",
    "opt",
    "gemma3",
)
FAMILY_LAYERS = {"rwkv": 2, "mamba": 2, "mamba2": 2, "nemotron_h": 4, "falcon_h1": 4, "qwen3_5": 4}
SIDES = {
    "falcon_h1": ({"self_attn"}, {"feed_forward"}),
    "mamba": (set[str](), set[str]()),
    "nemotron_h": ({"mixer"}, {"mixer", "experts", "shared_experts"}),
    "recurrent_gemma": ({"temporal_block"}, {"mlp_block"}),
    "jamba": ({"self_attn"}, {"feed_forward", "experts"}),
    "lfm2": ({"self_attn"}, {"feed_forward"}),
    # PEFT reads gate_proj, up_proj and down_proj as the fused experts in these two, so dense ones can have no adapter of their own.
    "qwen3_next": ({"linear_attn", "self_attn"}, {"mlp", "experts"}),
    "deepseek_v32": ({"self_attn"}, {"experts"}),
    "opt": ({"self_attn"}, {"0", "1"}),
    "gemma3": ({"self_attn"}, {"mlp"}),
}


@cache
def tried_tree(family: str) -> ModuleTree:
    model = meta_family(family)
    tree = tree_of(model)
    idle = idle_modules(model, [module.name for module in tree.targetable])
    return replace(tree, modules=tuple(replace(module, idle=idle.get(module.name, "")) for module in tree.modules))


def settings_for(names: frozenset[str], tree: ModuleTree) -> AdapterSettings:
    r, alpha = 4, 8
    changes = compile_selection(Selection(names), tree, r, alpha).changes()
    return adapter({name.removeprefix("adapter."): value for name, value in changes.items()})


def adapter(changes: dict[str, Any]) -> AdapterSettings:
    return AdapterSettings.model_validate({"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, **changes})


def gradients(family: str, settings: AdapterSettings) -> dict[str, bool]:
    """Train one step and say of each adapter whether a gradient came to it."""
    import torch

    model = inject(family_model(family), settings, seed=0)
    ids = torch.arange(3, 43).reshape(2, 20)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: parameter.grad is not None for name, parameter in trained.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_the_tree_calls_targetable_trains_one_step(family: str) -> None:
    tree = tried_tree(family)
    names = frozenset(name for name in targetable_below("", tree) if not tree.by_name[name].idle)
    assert all(gradients(family, settings_for(names, tree)).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_leaves_out_what_no_adapter_can_go_on(family: str) -> None:
    tree = tried_tree(family)
    settings = adapter({"target_modules": "all-linear"})
    resolution = resolve(settings, tree)
    assert not resolution.errors
    learn = gradients(family, settings)  # which looks that PEFT wrapped exactly the resolution's targets
    idle = {target.name for target in resolution.targets if tree.by_name[target.name].idle}
    assert {name for name, came in learn.items() if not came} == {
        name for name in learn if any(f".{module}.lora_" in name for module in idle)
    }


@pytest.mark.parametrize("family", list(SIDES))
def test_presets_go_by_what_a_module_is_part_of(family: str) -> None:
    tree = tried_tree(family)
    found = tuple({name.split(".")[-2] for name in PRESETS[preset](tree)} for preset in ("attention", "mlp"))
    assert found == SIDES[family]


def test_a_family_that_numbers_its_attentions_and_not_its_layers_has_both_parts() -> None:
    tree = tree_of(meta_family("xlm"))
    found = {preset: {name.split(".")[1] for name in PRESETS[preset](tree)} for preset in ("attention", "mlp")}
    assert found == {"attention": {"attentions"}, "mlp": {"ffns"}}


@pytest.mark.parametrize("family", ["nemotron_h", "llama4_text", "recurrent_gemma"])
@pytest.mark.parametrize("preset", ["attention", "mlp", "all_linear"])
def test_every_preset_trains(family: str, preset: str) -> None:
    tree = tried_tree(family)
    assert all(gradients(family, settings_for(PRESETS[preset](tree), tree)).values())


@pytest.mark.parametrize(("family", "reached", "every"), [("nemotron_h", 1, 4), ("lfm2", 1, 4), ("recurrent_gemma", 1, 3)])
def test_targets_that_reach_few_layers_are_told_of(family: str, reached: int, every: int) -> None:
    found = resolve(adapter({"target_modules": ("q_proj", "v_proj")}), tried_tree(family)).findings
    few = [finding for finding in found if finding.code == "few_layers"]
    assert [finding.message for finding in few] == [
        f"The targets are in {reached} of {every} layers: the others have no module of these names."
    ]
    assert few[0].level == "warning"


def test_layers_that_settings_choose_themselves_are_no_surprise() -> None:
    tree = tried_tree("lfm2")
    named = adapter({"target_modules": ("model.layers.1.self_attn.q_proj",)})
    chosen = adapter({"target_modules": ("q_proj",), "layers_to_transform": (1,)})
    assert "few_layers" not in {finding.code for settings in (named, chosen) for finding in resolve(settings, tree).findings}


def test_ticked_modules_that_learn_nothing_are_told_of() -> None:
    tree = tried_tree("mamba")
    found = resolve(adapter({"target_modules": ("in_proj", "dt_proj")}), tree).findings
    assert [(finding.level, finding.code) for finding in found] == [("warning", "no_gradient")]
    assert found[0].message.startswith("backbone.layers.0.mixer.dt_proj and 1 more of 4 targeted modules would learn nothing")


def test_targets_that_all_learn_nothing_keep_a_run_from_starting() -> None:
    errors = resolve(adapter({"target_modules": ("dt_proj",)}), tried_tree("mamba")).errors
    assert [error.code for error in errors] == ["nothing_learns"]


def test_all_linear_says_what_it_leaves_out() -> None:
    notes = resolve(adapter({"target_modules": "all-linear"}), tried_tree("phimoe")).findings
    assert [(note.level, note.code) for note in notes] == [("note", "all_linear_without")]
    assert "model.layers.0.mlp.router and 3 more" in notes[0].message


@pytest.mark.parametrize("family", ["rwkv", "mamba", "mamba2", "nemotron_h", "falcon_h1", "qwen3_5"])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_family_is_planned_whatever_heads_and_layers_its_config_names(tmp_path: Path, family: str, kind: str) -> None:
    family_config(family).save_pretrained(tmp_path)
    facts = read_facts(tmp_path)
    config = RunConfig().replace({"adapter.target_modules": "all-linear"})
    plan = make_plan(config, facts, tried_tree(family), device=Device(kind, "a device", 16_000_000_000, quick_bfloat16=True))
    assert not [finding for finding in plan.findings if finding.level == "error"]
    assert facts.layers == FAMILY_LAYERS[family]
    assert plan.memory.peak_bytes > 0


def test_a_model_without_attention_has_no_scores() -> None:
    assert scores_at_once(documents=4, longest=512, heads=0, key_heads=0) == 0
