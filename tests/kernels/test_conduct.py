"""How models take rows is tried out: every family's loss and gradient are plain transformers', whatever its attention is."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError
from lora_studio.data.batching.plan import StepPlan
from lora_studio.inference.sampling import answer
from lora_studio.inference.score import held_out_logits
from lora_studio.kernels.attention import ReadyAttention
from lora_studio.kernels.conduct import Conduct
from lora_studio.models.load import load_tokenizer
from lora_studio.train.micro_batcher import MicroBatcher
from tests.families.configs import tiny_family_model
from tests.families.steps import CPU, Held, our_steps, plain_steps
from tests.tiny import save_tiny_tokenizer
from tests.train.helpers import token_rows


def adapted(model: nn.Module) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))


def conduct(model: nn.Module) -> Conduct:
    return ReadyAttention(model).conduct


OWN_WAYS = {
    "looks at the attention's name": ("falcon", {}),
    "adds a slope to the scores": ("falcon", {"alibi": True}),
    "makes a mask of its own": ("doge", {}),
    "chooses among tokens": ("glm_moe_dsa", {}),
    "passes the mask by name": ("exaone4", {}),
    "carries a state": ("jamba", {}),
    "has windows in some layers": ("dory", {}),
    "looks ahead": ("xlnet", {}),
    "counts positions from a token": ("roberta", {}),
    "attends eagerly alone": ("mpt", {}),
    "predicts several tokens": ("prophetnet", {}),
}


@pytest.mark.parametrize("way", OWN_WAYS)
def test_loss_and_gradient_are_plain_transformers(way: str) -> None:
    family, changes = OWN_WAYS[way]
    ours = adapted(tiny_family_model(family, **changes))
    plain = copy.deepcopy(ours)
    rows = token_rows(6, longest=30)
    steps = [[row] for row in rows[:3]] + [rows]
    for found, wanted in zip(our_steps(ours, steps), plain_steps(plain, steps), strict=True):
        assert found[0] == pytest.approx(wanted[0], rel=1e-5)
        assert found[1] == pytest.approx(wanted[1], rel=1e-5)


@pytest.mark.parametrize(
    ("family", "common"),
    [
        ("llama", True),
        ("gemma3_text", True),
        ("deepseek_v3", True),
        ("exaone4", True),
        ("dory", True),
        ("bert", True),
        ("falcon", False),
        ("doge", False),
        ("glm_moe_dsa", False),
        ("llama4_text", False),
        ("mpt", False),
    ],
)
def test_attention_of_ours_is_given_where_the_family_goes_through_the_common_one(family: str, common: bool) -> None:
    model = tiny_family_model(family)
    assert ReadyAttention(model).usable == common
    assert ReadyAttention(model).padding_free == common


def test_a_window_that_only_the_mask_knows_is_seen_in_rows_far_shorter() -> None:
    model = tiny_family_model(
        "qwen3", sliding_window=64, layer_types=["full_attention", "sliding_attention"], use_sliding_window=True, max_window_layers=1
    )
    assert conduct(copy.deepcopy(model)).common
    model.model.layers[1].self_attn.sliding_window = None  # its mask has it still
    assert not conduct(model).common


def test_a_score_that_ours_would_leave_out_is_seen_where_it_weighs_nothing() -> None:
    model = tiny_family_model("llama")
    attention = model.model.layers[0].self_attn
    forward = attention.forward
    attention.forward = lambda *inputs, **named: forward(*inputs, **named, position_bias=torch.zeros(()))
    assert not conduct(model).common


@pytest.mark.parametrize("family", ["deepseek_v32", "doge"])
def test_rows_that_padding_would_change_share_a_micro_batch_by_length_alone(family: str) -> None:
    found = conduct(tiny_family_model(family))
    assert (found.pads, found.causal) == (False, True)
    rows = token_rows(12, longest=10)
    held = Held(rows)
    config = RunConfig().replace({"training.per_device_train_batch_size": 12})
    for device in (CPU, torch.device("cuda")):
        pieces = MicroBatcher(held, config, device, padding_free=False, pads=False)
        step = StepPlan(held.lengths, held.trained_counts, config.training).step(0)
        lengths = [[row.input_ids.size for row in piece] for piece in pieces.of(step)]
        assert all(len(set(piece)) == 1 for piece in lengths)
        assert sorted(itertools.chain.from_iterable(lengths)) == sorted(row.input_ids.size for row in rows)
        assert len(lengths) < len(rows)
    notice = found.notice()
    assert notice is not None
    assert notice.code == "no_padding"


def test_held_out_rows_that_padding_would_change_are_scored_as_each_alone() -> None:
    model = tiny_family_model("doge", keep_window_size=4)
    rows = token_rows(5)
    together = {found.row: found.logits for found in held_out_logits(model, Held(rows))}
    for number, row in enumerate(rows):
        alone = next(iter(held_out_logits(model, Held([row])))).logits
        torch.testing.assert_close(together[number], alone, rtol=0, atol=1e-5)


def test_prompts_that_padding_would_change_are_answered_as_each_alone(tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    model = tiny_family_model("doge", keep_window_size=4)
    prompts = [row.input_ids.tolist() for row in token_rows(5)]
    assert answer(model, tokenizer, prompts, 8) == [answer(model, tokenizer, [prompt], 8)[0] for prompt in prompts]


@pytest.mark.parametrize(("family", "packs"), [("mpt", True), ("falcon", True), ("llama", True), ("bart", False), ("openai-gpt", False)])
def test_packing_is_refused_where_it_was_tried_and_leaks(family: str, packs: bool) -> None:
    found = conduct(tiny_family_model(family))
    assert found.packs == packs
    if not packs:
        with pytest.raises(InputError, match="do not stay apart") as raised:
            found.refuse_packing()
        assert raised.value.field == "data.packing"


def test_a_model_that_looks_ahead_is_told_of() -> None:
    notice = conduct(tiny_family_model("xlnet")).notice()
    assert notice is not None
    assert (notice.level, notice.code) == ("warning", "looks_ahead")


def test_a_model_whose_numbers_are_broken_is_not_said_to_look_ahead() -> None:
    model = tiny_family_model("llama")
    torch.nn.init.constant_(model.model.norm.weight, torch.nan)
    found = conduct(model)
    assert (found.causal, found.pads, found.common) == (True, False, False)


def test_a_model_is_tried_once_and_left_as_it_was() -> None:
    model = adapted(tiny_family_model("llama"))
    modes = [module.training for module in model.modules()]
    calls: list[int] = []
    model.register_forward_hook(lambda *_arguments: calls.append(1))
    torch.manual_seed(7)
    first = conduct(model)
    tried = len(calls)
    assert conduct(model) is first
    assert len(calls) == tried > 0
    assert [module.training for module in model.modules()] == modes
    assert torch.initial_seed() == 7
