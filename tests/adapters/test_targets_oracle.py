"""Target arithmetic against PEFT: what we say is wrapped is what `get_peft_model` injects, before and after saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_studio.adapters.config import to_lora_config
from lora_studio.core.counts import all_parameters, trainable_parameters
from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import Resolution, Selection, compile_selection, resolve, targetable_below
from tests.adapters.oracle import Injected, inject, injected, meta_model, reloaded_config, tree_of
from tests.tiny import ARCHITECTURES

PROPERTY = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tree(architecture: str) -> ModuleTree:
    return tree_of(meta_model(architecture, **LAYERS.get(architecture, {"num_hidden_layers": 3})))


LAYERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 3},
    "gemma3": {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
}


def fresh(architecture: str) -> Any:
    return meta_model(architecture, **LAYERS.get(architecture, {"num_hidden_layers": 3}))


def assert_same(resolution: Resolution, tree: ModuleTree, found: Injected) -> None:
    adapter = resolution.adapter
    assert found.ranks == {target.name: target.r for target in resolution.targets}
    power = 0.5 if adapter.use_rslora else 1
    assert found.scalings == pytest.approx({target.name: target.lora_alpha / target.r**power for target in resolution.targets})
    assert found.saved == set(resolution.saved_modules)
    assert found.trainable == trainable_parameters(adapter, tree, resolution)
    assert found.total == all_parameters(adapter, tree, resolution)


@st.composite
def selections(draw: st.DrawFn, tree: ModuleTree) -> Selection:
    names = sorted(targetable_below("", tree))
    rows = sorted(module.name for module in tree.modules if targetable_below(module.name, tree))
    chosen: frozenset[str] = frozenset()
    for row in draw(st.lists(st.sampled_from(rows), min_size=1, max_size=4)):
        chosen |= targetable_below(row, tree)
    for row in draw(st.lists(st.sampled_from(rows), max_size=3)):
        chosen -= targetable_below(row, tree)
    chosen = chosen or frozenset([draw(st.sampled_from(names))])
    some = st.sampled_from(sorted(chosen))
    ranks = draw(st.dictionaries(some, st.integers(1, 12), max_size=6))
    return Selection(chosen, ranks, draw(st.dictionaries(some, st.sampled_from([1, 2.5, 16, 32]), max_size=6)))


def test_what_a_selection_compiles_to_is_what_peft_injects_and_reloads(architecture: str, tree: ModuleTree, tmp_path: Path) -> None:
    @PROPERTY
    @given(selection=selections(tree), rslora=st.booleans(), dora=st.booleans(), bias=st.sampled_from(["none", "all", "lora_only"]))
    def check(selection: Selection, rslora: bool, dora: bool, bias: str) -> None:
        compiled = compile_selection(selection, tree, 4, 16)
        experts = any(tree.by_name[name].kind == "experts" for name in selection.modules)
        adapter = AdapterSettings.model_validate(
            {
                **{path.partition(".")[2]: value for path, value in compiled.changes().items()},
                "r": 4,
                "lora_alpha": 16,
                "use_rslora": rslora,
                "use_dora": dora and not experts,
                "bias": bias,
            }
        )
        resolution = resolve(adapter, tree)
        assert not resolution.errors
        assert {target.name: (target.r, target.lora_alpha) for target in resolution.targets} == {
            name: (selection.ranks.get(name, 4), selection.alphas.get(name, 16)) for name in selection.modules
        }
        peft_model = inject(fresh(architecture), to_lora_config(adapter, tree))
        assert_same(resolution, tree, injected(peft_model))
        again = inject(fresh(architecture), reloaded_config(peft_model, tmp_path))
        assert injected(again).ranks == injected(peft_model).ranks
        assert injected(again).scalings == injected(peft_model).scalings

    check()
