"""Greedy answers, many prompts at a time where the model answers them so as it does alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from lora_studio.kernels.attention import ReadyAttention

_END_MARKS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>")
_OF_A_PART = {"<|end|>": "<|channel|>"}
"""Marks that end only a part of an answer in vocabularies that have another: in gpt-oss thoughts, calls and answer are a channel each."""
_MOST_ROWS = 16


class _Interrupted(StoppingCriteria):
    """Ends every answer of the batch once the person asks the task to end."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return torch.full((input_ids.shape[0],), self._asked(), dtype=torch.bool, device=input_ids.device)


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Name the tokens an answer ends with: the model's own, the tokenizer's, and the usual marks for the end of a turn it knows."""
    configured: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = set(configured if isinstance(configured, list) else [configured])
    found.add(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary[mark] for mark in _END_MARKS if mark in vocabulary and _OF_A_PART.get(mark) not in vocabulary)
    return sorted(token for token in found if isinstance(token, int))


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Answer each prompt greedily, batched, without touching the random state.

    Args:
        model: A causal language model, plain or with an adapter; its mode (train or eval) is put back after.
        tokenizer: Turns the answers into text.
        prompts: Token ids of each prompt, not padded.
        max_new_tokens: Most tokens of an answer.
        interrupted: Asked before every token; once true, all answers end where they are.

    Returns:
        One text for each prompt, in order, without the end token. Answers not begun when interrupted are empty.
    """
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    ends = end_tokens(model, tokenizer)
    with answering(model):
        together = _MOST_ROWS if len(order) > 1 and ReadyAttention(model).conduct.pads_left else 1
        for first in range(0, len(order), together):
            if interrupted():
                break
            group = order[first : first + together]
            for number, ids in zip(group, _generate(model, [prompts[number] for number in group], ends, max_new_tokens, interrupted)):
                answers[number] = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
    return answers


@contextlib.contextmanager
def answering(model: torch.nn.Module) -> Generator[None]:
    """Put a model into eval mode with its cache on, without gradients; put both back after."""
    config: Any = model.config
    training, use_cache = model.training, getattr(config, "use_cache", True)
    model.eval()
    config.use_cache = True
    try:
        with torch.no_grad():
            yield
    finally:
        config.use_cache = use_cache
        model.train(training)


def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    ends: list[int],
    max_new_tokens: int,
    interrupted: Callable[[], bool],
) -> list[list[int]]:
    """Return each prompt's new tokens up to its end token, which is left off."""
    padding = ends[0] if ends else 0
    width = max(len(prompt) for prompt in prompts)
    device = next(model.parameters()).device
    input_ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    output: Any = model.generate(  # type: ignore[operator]
        input_ids=input_ids,
        attention_mask=mask,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        eos_token_id=ends or None,
        pad_token_id=padding,
        stopping_criteria=StoppingCriteriaList([_Interrupted(interrupted)]),
    )
    return [_until_end(ids, ends) for ids in output[:, width:].tolist()]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]
