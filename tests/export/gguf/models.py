"""Tiny models that llama.cpp's converter takes: they carry the starter's tokenizer, which it knows by the hash of what it does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.tiny import tiny_config

STARTER_IDS = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MakeBase = Callable[..., Path]


def save_gguf_base(folder: Path, starter: Path, architecture: str, **changes: Any) -> Path:
    """Make a tiny model with the starter's vocabulary; `changes` override settings. Gives the folder."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(architecture, **{**STARTER_IDS, **changes}))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(folder)
    for path in starter.glob("*token*"):
        shutil.copy(path, folder)
    shutil.copy(starter / "chat_template.jinja", folder)
    return folder


def outcome(steps: Generator[Any, None, Any]) -> Any:
    """Go through a task's events, and give what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
