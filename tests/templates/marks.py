"""A tokenizer for any chat template: byte-level, with the marks that the template writes as special tokens of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tests.tiny import save_tiny_tokenizer

FOLDER = Path(os.environ.get("LORA_STUDIO_CHAT_TEMPLATES") or Path(__file__).parents[3] / "shared" / "chat_templates")
_MARK = re.compile(
    r"<\|[\w/ -]+\|?>|</?\w+\|>|<｜[^｜<>]{1,40}｜>|<\w+_of_\w+>|\[/?[A-Z][A-Z_ ]{2,}\]|</?s>"
    r"|\]~!b\[|\]~b\]|\[e~\[|\]<\]\w+\[>\[|<\[[^\]\n]{1,40}\]>"
    r"|<(?:extra_id_\d+|SPECIAL_\d+|AvatarTokens|end_of_utterance|seed:\w+)>|</?(?:system|assistant|user|tool_response)>"
)
_END = re.compile(r"end(?!_header|_?think)|eot|eom|im_end|return\||call\||</s>|eos|^<turn\|>|endoftext|e~\[|/assistant", re.IGNORECASE)


def published() -> list[Path]:
    """Return the published templates, none where they are not beside the checkout."""
    return sorted(FOLDER.glob("*.jinja"))


def marks_of(template: str) -> list[str]:
    """Return what a template writes that looks like a token of its own."""
    found = set(_MARK.findall(template)) - {"<|", "|>"}
    return sorted(mark for mark in found if not mark.lower().startswith(("<think", "</think")))


def is_end(mark: str) -> bool:
    """Return whether a mark ends a turn, by its name."""
    return bool(_END.search(mark)) and "think" not in mark.lower()


def tokenizer_for(template: str, folder: Path) -> Any:
    """Make a tokenizer that knows a template's marks; `folder` keeps the plain one that all share."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        save_tiny_tokenizer(folder, None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(marks_of(template), special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer
