"""Ways to make a step smaller, and what they cost."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets import resolve
from lora_studio.models.facts import ModelFacts
from lora_studio.planning.activations import Workload
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.planning.costs import Costs
from lora_studio.planning.device import Device
from lora_studio.planning.plan import make_plan
from lora_studio.planning.suggestions import MemorySuggestion, cures, priced_suggestions
from tests.adapters.oracle import model_of, tree_of

WORK = Workload(8, 1024, 4096)
OFF, FULL = Checkpointing(0), Checkpointing(1)


@pytest.fixture(scope="module")
def costs() -> Costs:
    from transformers import AutoConfig

    tree: ModuleTree = tree_of(
        model_of(
            AutoConfig.for_model(
                "llama",
                hidden_size=2048,
                intermediate_size=8192,
                num_hidden_layers=16,
                num_attention_heads=32,
                num_key_value_heads=8,
                vocab_size=128256,
                tie_word_embeddings=True,
            )
        )
    )
    facts = ModelFacts(
        "LlamaForCausalLM",
        "llama",
        tree.all_parameters,
        16,
        "bfloat16",
        0,
        True,
        hidden_size=2048,
        intermediate_size=8192,
        vocab_size=128256,
        heads=32,
        kv_heads=8,
        head_dim=64,
    )
    config = RunConfig().replace(
        {
            "adapter.target_modules": "all-linear",
            "adapter.r": 16,
            "training.gradient_checkpointing": "off",
            "training.per_device_train_batch_size": 8,
        }
    )
    return Costs(config, facts, tree, Device("cuda", "a card", 24_000_000_000, quick_bfloat16=True), resolve(config.adapter, tree))


def on(costs: Costs, capacity: int) -> Costs:
    return replace(costs, device=replace(costs.device, capacity_bytes=capacity))


def by_field(found: list[MemorySuggestion]) -> dict[str, MemorySuggestion]:
    return {next(iter(cure.changes)).rpartition(".")[2]: cure for cure in found}


def test_a_cure_saves_what_the_estimate_of_the_changed_run_says(costs: Costs) -> None:
    for cure in cures(on(costs, 1), WORK):
        changed = costs.under(cure.changes)
        rows, length = changed.config.training.per_device_train_batch_size, min(WORK.length, changed.config.data.max_length)
        after = changed.memory(Workload(rows, length, WORK.trained * rows * length // WORK.tokens))
        assert cure.saved_bytes == costs.memory(WORK).peak_bytes - after.peak_bytes
        assert cure.saved_bytes > 0


def test_every_kind_of_cure_is_named_and_each_is_as_small_as_is_enough(costs: Costs) -> None:
    peak = costs.memory(WORK).peak_bytes
    found = by_field(cures(on(costs, peak - 1), WORK))
    assert set(found) == {"per_device_train_batch_size", "gradient_checkpointing", "max_length", "quantization", "r"}
    assert all(cure.fits for cure in found.values())
    assert found["gradient_checkpointing"].changes["training.gradient_checkpointing_every"] == 4
    assert found["per_device_train_batch_size"].changes == {
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 2,
    }
    assert found["max_length"].changes == {"data.max_length": 512}
    assert found["r"].changes == {"adapter.r": 8}


def test_those_that_are_enough_come_first_and_of_them_the_ones_that_take_no_time(costs: Costs) -> None:
    small = costs.memory(replace(WORK, rows=4, trained=2048)).peak_bytes
    found = cures(on(costs, small), WORK)
    assert [cure.fits for cure in found] == sorted((cure.fits for cure in found), reverse=True)
    enough = [cure.slower for cure in found if cure.fits]
    assert enough == sorted(enough)
    assert "r" in by_field([cure for cure in found if not cure.fits])


def test_computing_all_again_costs_the_third_pass_over_the_layers(costs: Costs) -> None:
    """4N + 3A become 6N + 4A; the output layer and the adapter's own gradients are not computed again."""
    facts, head = costs.facts, costs.facts.vocab_size * costs.facts.hidden_size
    layers = sum(module.own_parameters for module in costs.tree.modules if module.kind == "linear") - head
    wrapped = [costs.tree.by_name[target.name] for target in costs.resolution.targets]
    adapter = 16 * sum(module.in_features + module.out_features for module in wrapped)
    attention = 2 * 16 * facts.heads * facts.head_dim * WORK.length
    plain = WORK.tokens * (4 * layers + 6 * adapter + 3 * attention) + WORK.trained * 4 * head
    assert costs.flops(WORK, OFF) == pytest.approx(plain)
    assert costs.flops(WORK, FULL) - plain == pytest.approx(WORK.tokens * (2 * layers + 2 * adapter + attention))
    assert costs.flops(WORK, Checkpointing(2)) == pytest.approx((plain + costs.flops(WORK, FULL)) / 2)


def test_a_cure_is_said_with_its_price() -> None:
    cure = MemorySuggestion({"training.gradient_checkpointing": "full"}, 3_100_000_000, 0.3, fits=True)
    assert str(cure) == "gradient_checkpointing full: −3.1 GB, about 30% slower"
    assert str(MemorySuggestion({"data.max_length": 512}, 13_000_000, 0.0, fits=False)) == "max_length 512: −13 MB"


def test_at_one_row_the_ways_out_are_the_strongest_checkpointing_and_half_of_the_rest(costs: Costs) -> None:
    ways = priced_suggestions(costs)(1024)
    told = {way.partition(":")[0] for way in ways}
    assert told == {"gradient_checkpointing full", "max_length 512", "quantization nf4", "r 8"}
    assert all(re.search(r": −[\d.]+ [GM]B", way) for way in ways)
    assert not priced_suggestions(costs.under({"training.gradient_checkpointing": "full"}))(1024)[0].startswith("gradient")


def test_a_plan_that_does_not_fit_lists_them_in_its_finding_and_for_programs(costs: Costs) -> None:
    plan = make_plan(costs.config, costs.facts, costs.tree, device=replace(costs.device, capacity_bytes=12_000_000_000))
    assert not plan.memory.fits
    hint = next(finding.hint for finding in plan.findings if finding.code == "memory_over_capacity")
    assert plan.cures
    assert all(str(cure) in hint for cure in plan.cures)
    assert [entry["fits"] for entry in plan.to_json()["cures"]] == [cure.fits for cure in plan.cures]  # type: ignore[index, union-attr]


def test_a_plan_under_auto_says_what_it_took(costs: Costs) -> None:
    config = costs.config.replace({"training.gradient_checkpointing": "auto"})
    whole = make_plan(costs.config, costs.facts, costs.tree, device=on(costs, 0).device).memory.peak_bytes
    assert make_plan(config, costs.facts, costs.tree, device=on(costs, whole).device).memory.checkpointing == OFF
    tight = make_plan(config, costs.facts, costs.tree, device=on(costs, whole - 1).device)
    assert tight.memory.fits
    assert tight.to_json()["memory"]["gradient_checkpointing_every"] == 4  # type: ignore[index]
    assert [finding.level for finding in tight.findings if finding.code == "checkpointing_taken"] == ["note"]
