"""Plans and memory budgets, made without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.models.facts import ModelFacts
from lora_studio.planning.activations import Workload
from lora_studio.planning.budget import MemoryBudget, estimate_memory
from lora_studio.planning.device import Device, find_device
from lora_studio.planning.plan import make_plan
from tests.adapters.oracle import model_of, tree_of

GPU = Device("cuda", "a card", 24_000_000_000, quick_bfloat16=True)


@dataclass(frozen=True)
class Tokens:
    total: int
    trained: int
    max: int


@dataclass(frozen=True)
class Data:
    rows: int
    tokens: Tokens
    truncated_rows: int = 0
    untrained_rows: int = 0
    findings: tuple[Finding, ...] = ()


@pytest.fixture(scope="module")
def tree() -> ModuleTree:
    from transformers import AutoConfig

    return tree_of(
        model_of(
            AutoConfig.for_model(
                "llama",
                hidden_size=3072,
                intermediate_size=8192,
                num_hidden_layers=28,
                num_attention_heads=24,
                num_key_value_heads=8,
                vocab_size=128256,
                tie_word_embeddings=True,
            )
        )
    )


@pytest.fixture(scope="module")
def facts(tree: ModuleTree) -> ModelFacts:
    return ModelFacts(
        "LlamaForCausalLM",
        "llama",
        tree.all_parameters,
        28,
        "bfloat16",
        0,
        True,
        hidden_size=3072,
        intermediate_size=8192,
        vocab_size=128256,
        heads=24,
        kv_heads=8,
        head_dim=128,
    )


def config(**changes: object) -> RunConfig:
    paths = {path.replace("__", "."): value for path, value in changes.items()}
    return RunConfig().replace({"adapter.target_modules": "all-linear", **paths})


def test_packed_blocks_are_full_whatever_the_longest_row_is(tree: ModuleTree, facts: ModelFacts) -> None:
    data = Data(100, Tokens(20_000, 5_000, 300))
    plans = [make_plan(config(data__packing=packing, data__max_length=2048), facts, tree, data, GPU) for packing in (False, True)]
    assert plans[1].memory.peak_bytes > plans[0].memory.peak_bytes
    assert [finding.code for finding in plans[1].findings if finding.field == "data.packing"] == ["batch_of_blocks"]
    assert not [finding for finding in plans[0].findings if finding.field == "data.packing"]


def budget(tree: ModuleTree, facts: ModelFacts, **changes: object) -> MemoryBudget:
    return estimate_memory(config(**changes), facts, tree, device=GPU)


def test_a_plan_is_the_json_that_others_build_on(tree: ModuleTree, facts: ModelFacts) -> None:
    plan = make_plan(config(), facts, tree, device=GPU).to_json()
    assert list(plan) == ["targets", "trainable_parameters", "all_parameters", "adapter_bytes", "memory", "findings"]
    memory = plan["memory"]
    assert isinstance(memory, dict)
    assert set(memory) == {"device", "capacity_bytes", "peak_bytes", "fits", "parts", "gradient_checkpointing"}
    assert memory["capacity_bytes"] == GPU.capacity_bytes


def test_the_parts_add_up_to_the_peak(tree: ModuleTree, facts: ModelFacts) -> None:
    found = budget(tree, facts)
    assert sum(found.parts.values()) == found.peak_bytes
    assert found.parts["weights"] == 2 * tree.all_parameters
    assert found.parts["optimizer"] == 2 * found.parts["adapter"]


def test_shorter_smaller_and_checkpointed_batches_need_less(tree: ModuleTree, facts: ModelFacts) -> None:
    most = budget(tree, facts).peak_bytes
    assert budget(tree, facts, data__max_length=512).peak_bytes < most
    assert budget(tree, facts, training__per_device_train_batch_size=2).peak_bytes < most
    assert budget(tree, facts, training__gradient_checkpointing="full").peak_bytes < most
    assert budget(tree, facts, adapter__lora_dropout=0.1).peak_bytes > most


def test_logits_take_one_block_where_the_head_is_frozen_and_bare_and_all_elsewhere(tree: ModuleTree, facts: ModelFacts) -> None:
    def loss(known: ModelFacts, **changes: object) -> int:
        return estimate_memory(
            config(training__gradient_checkpointing="full", **changes),
            known,
            tree,
            workload=Workload(8, 4096, 16_384),
            device=GPU,
        ).parts["logits_and_loss"]

    whole = 16_384 * facts.vocab_size * 12  # bytes
    assert loss(replace(facts, model_type="gemma2")) == whole
    assert loss(facts, adapter__modules_to_save=["embed_tokens"]) == whole  # the head is tied to it
    assert loss(facts) < whole / 50


def test_layers_before_the_first_adapter_keep_nothing(tree: ModuleTree, facts: ModelFacts) -> None:
    whole = budget(tree, facts, adapter__target_modules=["q_proj"])
    late = budget(tree, facts, adapter__target_modules=["q_proj"], adapter__layers_to_transform=[26, 27])
    assert late.parts["activations"] < whole.parts["activations"] / 8


def test_a_run_that_does_not_fit_is_told_what_would(tree: ModuleTree, facts: ModelFacts) -> None:
    small = Device("cuda", "a small card", 12_000_000_000, quick_bfloat16=True)
    wanted = config(training__per_device_train_batch_size=8, training__gradient_checkpointing="off")
    finding = next(found for found in make_plan(wanted, facts, tree, device=small).findings if found.code == "memory_over_capacity")
    assert "batch size of 1" in finding.hint
    assert "accumulation of 8" in finding.hint
    fitting = wanted.replace({"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": 8})
    assert make_plan(fitting, facts, tree, device=small).memory.fits


def test_rows_that_are_known_take_the_place_of_max_length(tree: ModuleTree, facts: ModelFacts) -> None:
    data = Data(100, Tokens(10_000, 4_000, 200))
    assert make_plan(config(), facts, tree, data, GPU).memory == estimate_memory(
        config(), facts, tree, workload=Workload(4, 200, 320), device=GPU
    )


@pytest.mark.parametrize(
    ("changes", "data", "code"),
    [
        ({"training__learning_rate": 0.1}, None, "learning_rate_unusual"),
        ({"adapter__r": 2048}, None, "rank_over_dimension"),
        ({"adapter__rank_pattern": {"q_proj": 4}}, None, "overrides"),
        ({"adapter__bias": "all"}, None, "bias_changes_base"),
        ({"adapter__rank_pattern": {"layers.0.mlp.down_proj": 16, "down_proj": 4}}, None, "pattern_overlap"),
        ({}, Data(10, Tokens(100, 50, 2000), truncated_rows=3), "rows_cut"),
        ({}, Data(10, Tokens(100, 50, 90), untrained_rows=1), "rows_untrained"),
        ({"adapter__target_modules": ["nowhere"]}, None, "target_unmatched"),
    ],
)
def test_findings_name_what_deserves_a_look(
    tree: ModuleTree,
    facts: ModelFacts,
    changes: dict[str, object],
    data: Data | None,
    code: str,
) -> None:
    big = Device("cpu", "", 0, quick_bfloat16=True)
    assert code in {finding.code for finding in make_plan(config(**changes), facts, tree, data, big).findings}
    assert code not in {finding.code for finding in make_plan(config(), facts, tree, None, big).findings}


def test_a_quantized_base_weighs_less_and_is_an_error_where_it_cannot_be(
    tree: ModuleTree,
    facts: ModelFacts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, packed = (make_plan(config(model__quantization=name), facts, tree, device=GPU) for name in ("none", "nf4"))
    linear = whole.memory.parts["weights"] - 2 * 128256 * 3072
    assert packed.memory.parts["weights"] == pytest.approx(2 * 128256 * 3072 + linear / 2 * (0.5 + 1 / 64 + 1 / 4096), rel=1e-3)
    assert not [finding for finding in packed.findings if finding.level == "error"]
    monkeypatch.setattr("lora_studio.models.quantization.find_spec", lambda _name: None)
    errors = [found for found in make_plan(config(model__quantization="nf4"), facts, tree, device=GPU).findings if found.level == "error"]
    assert [(found.code, found.field) for found in errors] == [("quantization_missing", "model.quantization")]


def test_this_machines_device_has_memory() -> None:
    assert find_device("cpu").kind == "cpu"
    assert find_device().capacity_bytes > 1_000_000_000


def test_planning_leaves_torch_out() -> None:
    code = "import sys, lora_studio.planning.plan; sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
