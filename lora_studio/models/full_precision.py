"""What the full-precision model behind a quantized one is called, by its name and its model card. Light, and no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_FRONT_MATTER_BYTES = 65536
_BITS = r"[2-8][-_]?bits?|int[2-8]|w\d+a\d+|fp[48]|nf4|nvfp4|mxfp4|gptq(?:model)?|awq|aqlm|hqq|exl2|quantized"
_BESIDE = r"unsloth|bnb|mlx|hf|dynamic|static|block|gemm|marlin|sym|asym|g\d+|\d+g|\d+x\d+|dwq"
# `-bnb-4bit`, `-unsloth-bnb-4bit`, `-GPTQ-Int4`, `-AWQ`, `-FP8-dynamic`, `-quantized.w4a16` and their like, one after the other.
_ENDING = re.compile(rf"(?:[-_.](?:{_BITS}|{_BESIDE}))+$", re.IGNORECASE)
_SAYS_BITS = re.compile(rf"[-_.](?:{_BITS})(?![^-_.])", re.IGNORECASE)


def named_in_full_precision(name: str) -> str:
    """Return a model's name without what tells of quantization at its end; empty where nothing does.

    `unsloth/Qwen3-8B-unsloth-bnb-4bit` is unsloth/Qwen3-8B, `TheBloke/Mistral-7B-v0.1-GPTQ` is TheBloke/Mistral-7B-v0.1.
    """
    bare = name.rstrip("/")
    ending = _ENDING.search(bare)
    says = ending is not None and _SAYS_BITS.search(ending.group()) is not None
    return bare[: ending.start()] if ending and says and bare[: ending.start()].rpartition("/")[2] else ""


def full_precision_of(name: str, folder: Path | None = None) -> str:
    """Say what the model in full precision is called behind a quantized one; empty where nothing tells.

    Args:
        name: The quantized model's name or path.
        folder: Where it lies, whose model card may name its `base_model`.
    """
    shorter = named_in_full_precision(name)
    is_path = bool(name) and (Path(name).expanduser().is_absolute() or Path(name).expanduser().exists())
    if is_path and shorter and Path(shorter).expanduser().exists():
        return shorter
    return _base_in_card(folder) or ("" if is_path else shorter)  # the name keeps the maker of the quantized one


def front_matter(folder: Path) -> dict[str, Any]:
    """Read the front matter of a folder's model card; empty where there is none that can be read."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    with card.open(encoding="utf-8", errors="replace") as file:
        parts = file.read(_FRONT_MATTER_BYTES).split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front: Any = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}  # a card is written by hand: a broken one costs what it would have told
    return front if isinstance(front, dict) else {}


def _base_in_card(folder: Path | None) -> str:
    named: Any = front_matter(folder).get("base_model") if folder is not None else None
    first = named[0] if isinstance(named, list) and named else named
    return first if isinstance(first, str) else ""
