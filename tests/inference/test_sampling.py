from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_studio.inference.sampling import answer, end_tokens
from tests.odd_families import family_model
from tests.tiny import ARCHITECTURES
from tests.train.helpers import adapted_model, token_rows

TinyModel = Callable[[str], Path]


def prompts(count: int = 5) -> list[list[int]]:
    return [row.input_ids.tolist() for row in token_rows(count, seed=4)]


def greedy_alone(model: torch.nn.Module, prompt: list[int], count: int, ends: list[int]) -> list[int]:
    """The plain definition: the likeliest token, one at a time, no cache, no padding."""
    ids = list(prompt)
    for _ in range(count):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_batched_answers_are_those_of_each_prompt_alone(tiny_model: TinyModel) -> None:
    for architecture in ARCHITECTURES:
        model = adapted_model(tiny_model(architecture), architecture).eval()
        tokenizer = AutoTokenizer.from_pretrained(tiny_model(architecture))
        ends = end_tokens(model, tokenizer)
        with torch.no_grad():
            alone = [tokenizer.decode(greedy_alone(model, prompt, 6, ends), skip_special_tokens=True).strip() for prompt in prompts()]
        assert answer(model, tokenizer, prompts(), 6) == alone, architecture


def test_an_answer_ends_before_the_end_of_turn(tiny_model: TinyModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in end_tokens(model, tokenizer)
    model.get_output_embeddings().register_forward_hook(
        lambda _head, _inputs, output: torch.nn.functional.one_hot(torch.full(output.shape[:2], end), output.shape[-1]).float()
    )
    assert answer(model, tokenizer, prompts(2), 8) == ["", ""]


def test_prompts_of_a_family_that_padding_on_the_left_changes_are_answered_as_alone(tiny_model: TinyModel) -> None:
    model = family_model("rwkv")
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)  # states that say something, so that padding before a prompt shows
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    with torch.no_grad():
        alone = [answer(model, tokenizer, [prompt], 8)[0] for prompt in prompts()]
    assert answer(model, tokenizer, prompts(), 8) == alone


def test_an_end_of_a_channel_does_not_end_an_answer(tiny_model: TinyModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end in end_tokens(model, tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|channel|>"]})
    assert end not in end_tokens(model, tokenizer)


def test_an_interrupted_answer_ends_where_it_is(tiny_model: TinyModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model("gpt2")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("gpt2"))
    calls = iter(range(100))
    whole = answer(model, tokenizer, prompts(2), 30)
    cut = answer(model, tokenizer, prompts(2), 30, lambda: next(calls) >= 3)
    assert cut != whole
    assert all(full.startswith(part) for full, part in zip(whole, cut))
    assert answer(model, tokenizer, prompts(2), 30, lambda: True) == ["", ""]


def test_answering_leaves_random_state_and_mode_alone(tiny_model: TinyModel) -> None:
    model = adapted_model(tiny_model("llama"), dropout=0.5).train()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    before = torch.get_rng_state()
    first = answer(model, tokenizer, prompts(3), 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert answer(model, tokenizer, prompts(3), 5) == first
