"""Bases of known shapes whose weights are random numbers made on the device: nothing is read, and nothing but a config is written."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.gpu.call import Setting
from benchmarks.models import llama_config
from lora_studio.inference import loaded_model
from lora_studio.models import load
from lora_studio.models.inspect import load_config
from tests.tiny import save_tiny_tokenizer

_LLAMA_WORDS, _TINY_WORDS = 128_256, 1000


@dataclass(frozen=True)
class Shape:
    """A base and the rows that train it.

    Attributes:
        name: One of `benchmarks.models.SHAPES`.
        longest: Tokens of the longest row, and of a packed block.
        rows: Rows of a step where they are not packed.
        steps: Steps that the rows make.
    """

    name: str
    longest: int
    rows: int
    steps: int


def shape_of(setting: Setting, name: str) -> Shape:
    """Return a shape, or the one that tries a check out."""
    if setting.tiny:
        return Shape("tiny", 128, 4, 3)
    return Shape("1b", 2048, 8, 8) if name == "1b" else Shape("8b", 4096, 4, 6)


def base_folder(setting: Setting, shape: Shape) -> Path:
    """Return a folder with config and tokenizer of a shape; its file of weights stands for those that `random_weights` makes."""
    folder = Path(setting.folder) / "bases" / shape.name
    if not folder.is_dir():
        folder.mkdir(parents=True)
        llama_config(shape.name, _TINY_WORDS if setting.tiny else _LLAMA_WORDS).save_pretrained(folder)
        save_tiny_tokenizer(folder)
        save_file({"seed": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    return folder


@contextlib.contextmanager
def random_weights() -> Generator[None]:
    """Let the studio load random weights, made where they are wanted, for the length of a block."""
    before = load.load_model

    def made(folder: Path, dtype: torch.dtype, device: torch.device, quantization: str = "none") -> Any:
        from transformers import AutoModelForCausalLM

        assert quantization == "none"
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(load_config(folder), dtype=dtype, attn_implementation="sdpa")
        return model.requires_grad_(False).eval()

    load.load_model = loaded_model.load_model = made  # type: ignore[assignment]
    try:
        yield
    finally:
        load.load_model = loaded_model.load_model = before


def write_texts(path: Path, count: int, longest: int) -> Path:
    """Write texts of a few up to `longest` tokens, many short and few long; a word of the tiny tokenizer has about two tokens."""
    numbers = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            words = max(4, round(longest / 2 * numbers.random() ** 2))
            file.write(json.dumps({"text": " ".join(numbers.choice(_WORDS) for _ in range(words))}) + "\n")
    return path


_WORDS = ("parcel", "invoice", "support", "please", "address", "phone", "lost", "link", "mail", "queue", "high", "reset")
