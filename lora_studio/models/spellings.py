"""Both spellings of a model's settings: as transformers 5 writes them, and as every program reads them that came before it. No torch.

transformers 5 keeps rotary settings in one table, `rope_parameters`, and writes that alone. transformers 4 (to 4.57) and mlx-lm (0.32) do
not look there and compute with their family's default `rope_theta`, without a word. Its tokenizer class, `TokenizersBackend`, opens in
no other program, and its list `extra_special_tokens` is none that transformers 4 reads. Here the names of before are put beside
those of now, with the values that transformers 5 goes by, so that each reader finds its own and all compute the same.

Sources: the `configuration_*.py` of transformers 4.51, 4.57 and 5.24; `mlx_lm/models/rope_utils.py`, `gemma3_text.py`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lora_studio.core.files import write_atomically
from lora_studio.models.check import read_json

CHAT_TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_SETTINGS = "tokenizer_config.json"
OLDER_ROPE_NAMES = (
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "rope_local_base_freq",
    "rotary_emb_base",
    "rotary_pct",
    "global_rope_theta",
    "local_rope_theta",
    "sliding_window_pattern",
    "global_attn_every_n_layers",
)
"""What is written beside `rope_parameters` and `layer_types`, and says nothing that they do not."""

_FULL, _SLIDING = "full_attention", "sliding_attention"
_BY_LAYER_TYPE = {  # families of transformers 4 with two sets of rotary settings: how it calls both thetas
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "olmo3": ("rope_theta", ""),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
_OWN_NAMES = {  # theta and rotated share where a family had names of its own for them
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
_PATTERN_NAMES = {
    "gemma3_text": "sliding_window_pattern",
    "cohere2": "sliding_window_pattern",
    "modernbert-decoder": "global_attn_every_n_layers",
}
_RENAMED = {  # model_type: what transformers 5 writes, and what the same was called before
    "qwen3_moe": (("num_local_experts", "num_experts"),),
    "gpt2": (("n_positions", "n_ctx"),),
}
_KINDS = {  # families whose kinds of layers were renamed; transformers 5 takes both names, 4 the older alone
    "granitemoehybrid": ("layer_types", {"linear_attention": "mamba", "full_attention": "attention"}),
    "zamba": ("layers_block_type", {"linear_attention": "mamba"}),
    "zamba2": ("layers_block_type", {"linear_attention": "mamba"}),
}


_LONGROPE = {"short_factor": True, "long_factor": True, "rope_theta": False, "original_max_position_embeddings": False}
"""What phi3 of transformers 4 takes in `rope_scaling`, and what it wants beside it: it refuses a table of more than these and the type."""


def both_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's `config.json` with the older names beside those of transformers 5, in it and in the tables inside it.

    Args:
        config: As it was read; what it means to transformers 5 stays as it is.
    """
    found: dict[str, Any] = {
        key: both_spellings(cast("dict[str, Any]", value)) if isinstance(value, dict) and "model_type" in value else value
        for key, value in config.items()
    }
    for name, other in (("dtype", "torch_dtype"), ("torch_dtype", "dtype")):
        if found.get(name) is not None:
            found.setdefault(other, found[name])
    family = str(found.get("model_type", ""))
    for name, older in _RENAMED.get(family, ()):
        if name in found:
            found.setdefault(older, found[name])
    if family == "longcat_flash" and isinstance(found.get("num_layers"), int):  # transformers 5 halves what stands there as it reads
        found.setdefault("num_hidden_layers", 2 * found["num_layers"])
    return {**found, **_rotary(found, family), **_pattern(found, family), **_kinds(found, family)}


def spelled_tokenizer(settings: Mapping[str, Any], chat_template: str | None) -> dict[str, Any]:
    """Return a `tokenizer_config.json` that transformers 4 opens too: class and special tokens by their older names, the template inside.

    Args:
        settings: As they were read.
        chat_template: What stands in the template's own file; None where there is none.
    """
    found = dict(settings)
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    tokens = found.get("extra_special_tokens")
    if isinstance(tokens, list):  # a table of names is what transformers 4 reads there
        del found["extra_special_tokens"]
        found.setdefault("additional_special_tokens", tokens)
    if chat_template is not None:
        found["chat_template"] = chat_template
    return found


def mend_tokenizer(folder: Path) -> None:
    """Write a folder's tokenizer settings in both spellings, where they are not yet; its `tokenizer.json` stays as it is.

    Raises:
        InputError: They cannot be read.
        OSError: They cannot be written.
    """
    path, template = folder / TOKENIZER_SETTINGS, folder / CHAT_TEMPLATE_FILE
    if path.is_file():
        text = template.read_text(encoding="utf-8") if template.is_file() else None
        _rewrite(path, lambda settings: spelled_tokenizer(settings, text))


def mend_folder(folder: Path) -> None:
    """Write a model's settings and those of its tokenizer in both spellings; weights and fingerprint stay as they are.

    Raises:
        InputError: They cannot be read.
    """
    with contextlib.suppress(OSError):  # a cache that cannot be written serves as it is
        _rewrite(folder / "config.json", both_spellings)
        mend_tokenizer(folder)


def what_older_readers_lack(config: Mapping[str, Any]) -> str:
    """Say, as a sentence, what of a model no older name says, so that programs which read those compute something else; else nothing."""
    inner = config.get("text_config")
    shape = cast("dict[str, Any]", inner) if isinstance(inner, dict) else config
    family = str(shape.get("model_type", ""))
    nested = _nested(shape)
    if nested and family not in _BY_LAYER_TYPE:
        return f"transformers 4 and programs of its time have no names for the rotary settings of {family}, one set for each kind of layer."
    if family == "dbrx":
        return "transformers 4 refuses what transformers 5 writes into the attn_config and ffn_config of dbrx."
    if family in _PATTERN_NAMES and isinstance(shape.get("layer_types"), list) and not _pattern(shape, family):
        return (
            f"The layers of this {family} slide by no regular pattern: programs that read {_PATTERN_NAMES[family]} "
            "(transformers before 4.53, mlx-lm) would compute with another."
        )
    return ""


def _rewrite(path: Path, spelled: Any) -> None:
    before: Any = read_json(path)
    after: Any = spelled(before) if isinstance(before, dict) else before
    if after != before:
        write_atomically(path, json.dumps(after, indent=2, ensure_ascii=False) + "\n")


def _nested(config: Mapping[str, Any]) -> bool:
    """Return whether there is a set of rotary settings for each kind of layer."""
    rope: Any = config.get("rope_parameters")
    return isinstance(rope, dict) and bool(rope) and all(isinstance(value, dict) or value is None for value in cast("Any", rope).values())


def _rotary(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Return older names and values for what `rope_parameters` says."""
    rope: Any = config.get("rope_parameters")
    nested = _nested(config)
    if not isinstance(rope, dict) or not rope or (nested and family not in _BY_LAYER_TYPE):
        return {}
    table = cast("dict[str, Any]", rope)
    full, sliding = (table.get(kind) or {} for kind in (_FULL, _SLIDING)) if nested else (table, {})
    if config.get("rope_scaling") and not nested:
        return {}  # transformers 5 too goes by the older names then
    theta, other = _BY_LAYER_TYPE[family] if nested else _OWN_NAMES.get(family, ("rope_theta", "partial_rotary_factor"))
    told = {theta: full.get("rope_theta"), other: sliding.get("rope_theta") if nested else full.get("partial_rotary_factor")}
    found = {name: value for name, value in told.items() if name and value is not None}
    if theta != "global_rope_theta":
        found["rope_scaling"] = config.get("rope_scaling") or _scaling(full, config)
    return found


def _scaling(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `rope_scaling` as it was: nothing for plain rotation, else the method under both of its names and what it needs.

    `rope_theta` stays in it, where ctranslate2 looks for it and transformers 4 passes over it.
    """
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    told = {key: value for key, value in rope.items() if key not in ("partial_rotary_factor", "rope_type", "type")}
    if kind == "default" and not told.keys() - {"rope_theta"}:
        return None
    if kind == "longrope" and "original_max_position_embeddings" in config and told.keys() <= _LONGROPE.keys():
        return {"type": kind, **{key: told[key] for key in told if _LONGROPE[key]}}
    return {"rope_type": kind, "type": kind, **told}


def _kinds(config: Mapping[str, Any], family: str) -> dict[str, list[str]]:
    """Return kinds of layers by their older names, where they were renamed."""
    name, older = _KINDS.get(family, ("", dict[str, str]()))
    kinds: Any = config.get(name)
    return {name: [older.get(kind, kind) for kind in cast("list[str]", kinds)]} if isinstance(kinds, list) else {}


def _pattern(config: Mapping[str, Any], family: str) -> dict[str, int]:
    """Return the older name of which layers slide, where they do so by a regular pattern."""
    kinds: Any = config.get("layer_types")
    if family not in _PATTERN_NAMES or not isinstance(kinds, list):
        return {}
    every = _regular(cast("list[str]", kinds), first=family == "modernbert-decoder")
    return {} if every is None else {_PATTERN_NAMES[family]: every}


def _regular(kinds: Sequence[str], *, first: bool = False) -> int | None:
    """Say every how many layers one has full attention, the last of each group (or the first); None where that is not regular."""
    offset = 0 if first else 1
    for every in range(1, len(kinds) + 2):
        if all((kind == _FULL) == ((number + offset) % every == 0) for number, kind in enumerate(kinds)):
            return every
    return None
