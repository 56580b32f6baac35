"""What the full-precision model behind a quantized one is called, by its name and its model card. Light, and no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_FRONT_MATTER_BYTES = 65536
# `-bnb-4bit`, `-unsloth-bnb-4bit`, `-GPTQ-Int4`, `-AWQ`, `-FP8-dynamic`, `-quantized.w4a16` and their like, one after the other.
_ENDING = re.compile(
    r"[-_.](?:(?:unsloth[-_])?bnb(?:[-_][48]bits?)?|[48]-?bits?|(?:gptq|awq|nf4|fp4|nvfp4|mxfp4|fp8|int[48]|w\d+a\d+|gptqmodel)"
    r"(?:[-_](?:int[48]|[2348]-?bits?|g\d+|dynamic|static|block|gemm|marlin|w\d+a\d+|128g|sym|asym))*|quantized\.w\d+a\d+)$",
    re.IGNORECASE,
)


def named_in_full_precision(name: str) -> str:
    """Take what tells of quantization off the end of a model's name; empty where nothing does."""
    bare = name.rstrip("/")
    while True:
        shorter = _ENDING.sub("", bare)
        if shorter == bare or not shorter.rpartition("/")[2]:
            return bare if bare != name.rstrip("/") else ""
        bare = shorter


def full_precision_of(name: str, folder: Path | None = None) -> str:
    """Say what the model in full precision is called behind a quantized one; empty where nothing tells.

    Args:
        name: The quantized model's name or path.
        folder: Where it lies, whose model card may name its `base_model`.
    """
    shorter = named_in_full_precision(name)
    is_path = bool(name) and (Path(name).expanduser().is_absolute() or Path(name).expanduser().exists())
    if shorter and (not is_path or Path(shorter).expanduser().exists()):
        return shorter
    return _base_in_card(folder) or ("" if is_path else shorter)


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
