"""Counted operations against those torch counts while it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from lora_studio.adapters.inject import inject
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import resolve
from lora_studio.data.token_rows import TokenRow
from lora_studio.kernels.batches import make_batch
from lora_studio.kernels.head import SelectedHead
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import tree_of
from lora_studio.planning.flops import StepFlops, step_flops
from tests.train.helpers import targets, token_rows

TinyModel = Callable[[str], Path]
LENGTH = 32


def rows_of_one_length(count: int) -> list[TokenRow]:
    long = [row for row in token_rows(40, longest=60) if row.input_ids.size >= LENGTH]
    return [TokenRow(row.input_ids[:LENGTH], row.trained[:LENGTH]) for row in long[:count]]


def counted(folder: Path, settings: AdapterSettings, recomputed: bool, rows: list[TokenRow]) -> tuple[float, StepFlops, int]:
    """What torch counts of a step, what we do, and the trained positions."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").requires_grad_(False)
    tree, facts = tree_of(model), read_facts(folder)
    flops = step_flops(facts, tree, resolve(settings, tree), recomputed)
    adapted = inject(model, settings, seed=0).train()
    if recomputed:
        base: Any = adapted.get_base_model()
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = make_batch(rows)
    with SelectedHead(adapted) as head:
        head.bare(batch)  # tried out apart
        with FlopCounterMode(display=False) as counter:
            head.loss_sum(batch).backward()
    return counter.get_total_flops(), flops, len(batch.targets)


def as_torch_counts(flops: StepFlops, rows: list[TokenRow], trained: int, spared: int) -> float:
    """Our count by torch's custom: pairs that a causal mask hides are counted too, as are the positions to which the head's are filled up;
    a gradient no one wants is not."""
    lengths = [row.input_ids.size for row in rows]
    return flops.of(lengths, -(-trained // 8) * 8) + StepFlops(0, 0, flops.a_pair).of(lengths, 0) - 2 * spared * sum(lengths)


def reading_weights(folder: Path, settings: AdapterSettings, layer: int, names: tuple[str, ...]) -> int:
    """Weights, A's among them, that read a layer's own input: in the first layer that trains it wants no gradient."""
    tree = tree_of(AutoModelForCausalLM.from_pretrained(folder))
    modules = [module for module in tree.modules if f".{layer}." in module.name and module.leaf_name in names]
    return sum(module.in_features * (module.out_features + settings.r) for module in modules)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    ("architecture", "readers"),
    [
        ("llama", ("q_proj", "k_proj", "v_proj")),
        ("qwen3", ("q_proj", "k_proj", "v_proj")),
        ("gpt2", ("c_attn",)),
        ("phi3", ("qkv_proj",)),
        ("gpt_neox", ("query_key_value", "dense_h_to_4h")),
    ],
)
def test_a_step_costs_what_torch_counts(tiny_model: TinyModel, architecture: str, readers: tuple[str, ...], recomputed: bool) -> None:
    settings = AdapterSettings(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=tuple(targets(architecture)))
    rows = rows_of_one_length(4)
    truth, flops, trained = counted(tiny_model(architecture), settings, recomputed, rows)
    # Where layers are recomputed, transformers has the first one's input want a gradient; and torch stops before the last product.
    spared = 0 if recomputed else reading_weights(tiny_model(architecture), settings, 0, readers)
    assert truth == pytest.approx(as_torch_counts(flops, rows, trained, spared), rel=1e-2 if recomputed else 1e-3)


def test_layers_before_the_first_adapter_cost_their_forward_pass_alone(tiny_model: TinyModel) -> None:
    settings = AdapterSettings(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=tuple(targets("llama")), layers_to_transform=(1,))
    rows = rows_of_one_length(4)
    truth, flops, trained = counted(tiny_model("llama"), settings, False, rows)
    spared = reading_weights(tiny_model("llama"), settings, 1, ("q_proj", "k_proj", "v_proj"))
    assert truth == pytest.approx(as_torch_counts(flops, rows, trained, spared), rel=1e-3)


def test_the_head_counts_for_trained_positions_alone() -> None:
    flops = StepFlops(a_token=10, a_trained=100, a_pair=1)
    assert flops.of([3, 5], 2) == 10 * 8 + 100 * 2 + (9 + 25) / 2


def test_a_token_meets_only_the_experts_it_is_sent_to(tiny_model: TinyModel) -> None:
    folder = tiny_model("qwen3_moe")
    tree = tree_of(AutoModelForCausalLM.from_pretrained(folder))
    settings = AdapterSettings(r=4, target_modules=("q_proj",))
    flops = step_flops(read_facts(folder), tree, resolve(settings, tree))
    hidden, width, heads, layers = 32, 16, (32, 16, 16, 32), 2
    own = layers * (hidden * sum(heads) + hidden * 4 + 2 * 3 * hidden * width)  # attention, router, two experts of four
    assert flops.a_token == 4 * own + 6 * layers * 4 * (hidden + hidden)
    assert flops.a_trained == 4 * hidden * 384
    assert flops.a_pair == 3 * 4 * layers * hidden
