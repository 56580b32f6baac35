"""Chat templates in the manner of real models, one a family, written for the tests with the tiny tokenizer's own tokens."""

from __future__ import annotations

from dataclasses import dataclass

_OPEN, _END, _EOS = "<|im_start|>", "<|im_end|>", "</s>"


@dataclass(frozen=True)
class Style:
    """A template, what an answer ends with, and whether a system turn is known."""

    template: str
    end: str
    system: bool = True
    lead: str = ""


_CALLS = (
    "{% for call in m.tool_calls or [] %}{% set f = call.function %}"
    "{{ '\\n<tool_call>\\n' + ({'name': f.name, 'arguments': f.arguments} | tojson) + '\\n</tool_call>' }}{% endfor %}"
)
CHATML = Style(
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content }}" + _CALLS + "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    _END,
)
LLAMA3 = Style(
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>[' + m.role + ']\\n\\n' + m.content | trim }}" + _CALLS + "{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>[assistant]\\n\\n' }}{% endif %}",
    _END,
)
GEMMA = Style(
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim }}" + _CALLS + "{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}",
    _END,
    system=False,
)
MISTRAL = Style(
    "{{ bos_token }}{% set told = namespace(text='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set told.text = m.content + '\\n\\n' %}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim }}" + _CALLS + "{{ '</s>' }}"
    "{% else %}{{ '[INST] ' + told.text + m.content + ' [/INST]' }}{% set told.text = '' %}{% endif %}{% endfor %}",
    _EOS,
    lead=" ",
)
PHI3 = Style(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '>\\n' + m.content }}" + _CALLS + "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant>\\n' }}{% else %}{{ '</s>' }}{% endif %}",
    _END,
)
ZEPHYR = Style(
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content }}" + _CALLS + "{{ '</s>\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}",
    _EOS,
)
MARKED = Style(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    + _CALLS
    + "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    _END,
)
QWEN3 = Style(
    "{% set last = namespace(question=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% set said = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% if m.role == 'assistant' and loop.index0 > last.question %}{{ '<think>\\n' + "
    "(m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') if '</think>' in m.content else '') "
    "+ '\\n</think>\\n\\n' }}{% endif %}"
    "{{ said }}" + _CALLS + "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    _END,
    lead="<think>\n\n</think>\n\n",
)

BY_ARCHITECTURE = {
    "llama": LLAMA3,
    "qwen3": QWEN3,
    "gemma3": GEMMA,
    "mistral": MISTRAL,
    "phi3": PHI3,
    "gpt2": CHATML,
    "gpt_neox": ZEPHYR,
    "qwen3_moe": MARKED,
}

SLOW = "{% for a in range(6000) %}{% for b in range(6000) %}{% endfor %}{% endfor %}"
"""Ends by itself, after some seconds: what is tried with it is that limits are heeded, which are lowered for it."""
