"""Tokenizers of three template styles, and writers of data files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# In the style of Llama 3: the template carries the begin token, content is trimmed, a header opens each turn.
HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>[{{ message['role'] }}]\n\n{{ message['content'] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>[assistant]\n\n{% endif %}"
)
# In the style of Gemma: the begin token, the role is called model, and a system turn is refused.
MODEL_ROLE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<|im_start|>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
# In the style of Qwen 3: only the last answer keeps its thinking part.
REWRITING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}(thought)\n{% endif %}{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# With transformers' own marks around what the model says; the end token stands behind the mark.
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import save_tiny_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    return folder


@pytest.fixture
def tokenizer_with(tokenizer_folder: Path) -> Callable[..., Any]:
    """Return the tiny tokenizer with another chat template, if one is named, putting its begin token first if asked."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    def make(template: str | None = "as saved", *, begins: bool = False) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        if template != "as saved":
            tokenizer.chat_template = template
        if begins:
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        return tokenizer

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """Write objects as JSONL, or a text as it is, and give the path."""

    def write(rows: object, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            assert isinstance(rows, list | str)
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            path.write_text(text, encoding="utf-8", newline="")
        return str(path)

    return write


def chat(*turns: str, system: str = "") -> dict[str, Any]:
    """Return a row of user and assistant turns."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    return {"messages": messages}
