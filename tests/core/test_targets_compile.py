"""Compiling a selection: smallest by what `targets.compile` counts, and what it says is what was selected."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import CompiledTargets, Selection, all_linear, attention, compile_selection, mlp, resolve, selection_of
from lora_studio.core.targets.matching import layer_of, suffixes
from lora_studio.core.targets.patterns import PatternTable
from tests.core.trees import transformer, tree_from

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

Item = TypeVar("Item", str, int)

SMALL_TREES = {
    "two layers": tree_from(["m.h.0.a.q", "m.h.0.a.p", "m.h.0.f.p", "m.h.1.a.q", "m.h.1.a.p", "m.h.1.f.p"], output="head"),
    "a head outside": tree_from(["m.h.0.q", "m.h.1.q", "m.h.0.k", "m.h.1.k", "head"], ["m.n"], output="head"),
    "names within names": tree_from(["x.q", "m.x.q", "m.h.0.x.q", "m.h.1.x.q"]),
    "a tower of names": tree_from(["b.q", "a.b.q", "c.a.b.q", "c.k"]),
    "a norm of the same name": tree_from(["m.h.0.a", "m.h.1.a", "m.h.2.a"], ["m.n.a"]),
    "special characters": tree_from(["m.h.0.q-1", "m.h.1.q-1", "m.h.0.q+", "m.h.1.q+"]),
}


def settings_of(compiled: CompiledTargets, r: int = 8, lora_alpha: float = 16) -> AdapterSettings:
    config = RunConfig().replace({**compiled.changes(), "adapter.r": r, "adapter.lora_alpha": lora_alpha})
    return config.adapter


def subsets(items: Iterable[Item], most: int) -> Iterator[tuple[Item, ...]]:
    pool = sorted(items)
    return itertools.chain.from_iterable(itertools.combinations(pool, size) for size in range(most + 1))


def meant(compiled: CompiledTargets, tree: ModuleTree) -> frozenset[str]:
    resolution = resolve(settings_of(compiled), tree)
    assert not resolution.errors
    return frozenset(target.name for target in resolution.targets)


class Trials:
    """Every list, exclusion and set of layers of up to four entries, and what PEFT's rules make of each."""

    def __init__(self, tree: ModuleTree) -> None:
        self.names = {module.name for module in tree.modules if module.name}
        self.linear = frozenset(module.name for module in tree.modules if module.kind == "linear")
        self.every_linear = self.linear - {tree.output_module}
        self.layer = {name: layer_of(name) for name in self.names}
        entries = {entry for name in self.names for entry in suffixes(name)}
        taken = {entry: frozenset(name for name in self.names if f".{name}".endswith(f".{entry}")) for entry in entries}
        shortest: dict[object, str] = {}
        for entry in sorted(taken, key=len):  # of entries that mean the same, the longer are never smaller
            if taken[entry] & self.linear:
                shortest.setdefault((taken[entry], entry if entry in self.names else None), entry)
        self.taken = {entry: taken[entry] for entry in shortest.values()}

    def all(self) -> Iterator[CompiledTargets]:
        numbers = sorted({layer for layer in self.layer.values() if layer is not None})
        for included in (subset for subset in subsets(self.taken, 3) if subset):
            for layers in [None, *(subset for subset in subsets(numbers, 9) if subset)]:
                for excluded in subsets(self.taken, min(2, 4 - len(included) - (layers is not None))):
                    yield CompiledTargets(included, (), excluded, layers)
        for excluded in subsets(self.taken, 3):
            yield CompiledTargets("all-linear", (), excluded)

    def meaning(self, trial: CompiledTargets) -> frozenset[str] | None:
        """Say what is matched; None where PEFT would raise, or a complete name reaches beyond the layers."""
        if trial.target_modules == "all-linear":
            found = {name for name in self.names if any(f".{name}".endswith(f".{linear}") for linear in self.every_linear)}
        else:
            found = set[str]().union(*(self.taken[entry] for entry in trial.target_modules))
        if trial.layers_to_transform is not None:
            if any(entry in self.names and self.layer[entry] not in trial.layers_to_transform for entry in trial.target_modules):
                return None
            found = {name for name in found if self.layer[name] in trial.layers_to_transform}
        found -= set[str]().union(*(self.taken[entry] for entry in trial.exclude_modules))
        return frozenset(found) if found <= self.linear else None

    def smallest(self) -> dict[frozenset[str], CompiledTargets]:
        best: dict[frozenset[str], CompiledTargets] = {}
        for trial in self.all():
            names = self.meaning(trial)
            if names and (names not in best or trial.size < best[names].size):
                best[names] = trial
        return best


@pytest.mark.parametrize("name", SMALL_TREES)
def test_nothing_smaller_says_the_same_on_small_trees(name: str) -> None:
    tree = SMALL_TREES[name]
    found = Trials(tree).smallest()
    assert len(found) > 6
    for modules, smallest in found.items():
        compiled = compile_selection(Selection(modules), tree, 8, 16)
        assert meant(compiled, tree) == modules
        assert compiled.size <= smallest.size, (sorted(modules), compiled, smallest)


@pytest.mark.parametrize("name", SMALL_TREES)
def test_every_selection_of_a_small_tree_means_itself_or_is_refused(name: str) -> None:
    tree = SMALL_TREES[name]
    refused: list[str] = []
    for chosen in (subset for subset in subsets((module.name for module in tree.targetable), 9) if subset):
        selection = Selection(frozenset(chosen))
        try:
            compiled = compile_selection(selection, tree, 8, 16)
        except InputError as error:
            refused.append(error.message)
        else:
            assert meant(compiled, tree) == selection.modules
    # No list takes b.q and c.a.b.q without a.b.q: whatever includes the first matches the second, whatever excludes that the third.
    assert len(refused) == (2 if name == "a tower of names" else 0)
    assert all("cannot tell" in message for message in refused)


def test_layers_say_it_shorter_than_names() -> None:
    tree = transformer(12)
    chosen = frozenset(f"model.layers.{layer}.self_attn.{leaf}" for layer in range(3, 9) for leaf in ("q_proj", "v_proj"))
    compiled = compile_selection(Selection(chosen), tree, 8, 16)
    assert compiled == CompiledTargets(("q_proj", "v_proj"), layers_to_transform=(3, 4, 5, 6, 7, 8))


def test_gpt2s_two_c_proj_are_told_apart() -> None:
    names = [f"transformer.h.{layer}.{leaf}" for layer in range(12) for leaf in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    tree = tree_from([*names, "lm_head"], output="lm_head")
    assert compile_selection(Selection(attention(tree)), tree, 8, 16).target_modules == ("c_attn", "attn.c_proj")
    assert compile_selection(Selection(mlp(tree)), tree, 8, 16).target_modules == ("mlp.c_proj", "c_fc")
    assert compile_selection(Selection(all_linear(tree)), tree, 8, 16).target_modules == "all-linear"


def test_an_empty_selection_compiles_to_nothing_and_resolves_to_an_error() -> None:
    tree = transformer(2)
    compiled = compile_selection(Selection(), tree, 8, 16)
    assert compiled == CompiledTargets()
    assert [finding.code for finding in resolve(settings_of(compiled), tree).errors] == ["no_target"]


@PROPERTY
@given(st.data())
def test_overrides_become_keys_that_share_no_target(data: st.DataObject) -> None:
    tree = transformer(4)
    names = sorted(module.name for module in tree.targetable)
    chosen = data.draw(st.frozensets(st.sampled_from(names), min_size=1))
    ranks = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from([4, 8, 16])))
    alphas = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from([1.0, 16.0, 0.5])))
    compiled = compile_selection(Selection(chosen, ranks, alphas), tree, 8, 16)
    resolution = resolve(settings_of(compiled), tree)
    assert {target.name: (target.r, target.lora_alpha) for target in resolution.targets} == {
        name: (ranks.get(name, 8), alphas.get(name, 16)) for name in chosen
    }
    for patterns in (compiled.rank_pattern, compiled.alpha_pattern):
        table = PatternTable(dict(patterns), "")
        assert all(len(table.keys_for(name)) <= 1 for name in chosen)
    assert {finding.code for finding in resolution.findings} <= {"overrides"}


def test_settings_typed_with_overlapping_patterns_come_back_rewritten() -> None:
    tree = transformer(3)
    typed = AdapterSettings.model_validate(
        {"r": 8, "target_modules": ["down_proj", "q_proj"], "rank_pattern": {"layers.0.mlp.down_proj": 16, "down_proj": 4}}
    )
    resolution = resolve(typed, tree)
    assert [finding.code for finding in resolution.findings] == ["pattern_overlap"]
    compiled = compile_selection(selection_of(resolution), tree, 8, 16)
    assert compiled.rank_pattern == {r"0\.mlp\.down_proj": 16, r"1\.mlp\.down_proj": 4, r"2\.mlp\.down_proj": 4}


def test_a_name_that_others_end_in_gets_a_key_of_its_own() -> None:
    tree = SMALL_TREES["names within names"]
    everything = frozenset(module.name for module in tree.targetable)
    compiled = compile_selection(Selection(everything, {"x.q": 2, "m.x.q": 3}), tree, 8, 16)
    resolution = resolve(settings_of(compiled), tree)
    assert {target.name: target.r for target in resolution.targets} == {"x.q": 2, "m.x.q": 3, "m.h.0.x.q": 8, "m.h.1.x.q": 8}


@pytest.mark.parametrize(("name", "message"), [("model.layers.0.nothing", "no such module"), ("model.norm", "holds other modules")])
def test_a_module_that_cannot_be_targeted_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compile_selection(Selection(frozenset([name])), transformer(2), 8, 16)
    assert name in caught.value.message
    assert caught.value.field == "adapter.target_modules"
