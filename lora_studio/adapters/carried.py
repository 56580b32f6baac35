"""What an adapter has beside its updates, and what of it goes along, unchanged, into an adapter that is made of them.

An update can be cut, scaled and added; a weight that was trained whole cannot, nor can rows of an embedding. Cutting leaves all of that as
it is. Of what is scaled or added only that goes along which training did not touch: embedding and head as PEFT saved them because the
vocabulary was resized, and the tokenizer with the new tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_studio.adapters.saved_adapter import FIELD, PREFIX, SavedAdapter
from lora_studio.adapters.vocabulary import own_tokenizer
from lora_studio.core.errors import InputError

_MERGE = "Merge each into its base instead."
_TOKENIZER = "tokenizer.json"
_SETTINGS = ("modules_to_save", "bias", "trainable_token_indices", "ensure_weight_tying")


@dataclass(frozen=True)
class Carried:
    """What goes along.

    Attributes:
        tensors: By the key to write, the adapter and the key it is copied from.
        settings: What the config says of them.
        names: What the file is to call keys that PEFT would misread (see `models.peft_names`).
        tokenizer: Folder of the adapter whose tokenizer goes along; None for none.
    """

    tensors: Mapping[str, tuple[SavedAdapter, str]] = field(default_factory=dict[str, tuple[SavedAdapter, str]])
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    tokenizer: Path | None = None


def all_of(adapter: SavedAdapter) -> Carried:
    """Return all that an adapter has beside its updates, for one with the same updates at other ranks."""
    updates = {key for pair in adapter.pairs.values() for key in (pair.a_key, pair.b_key)}
    keys = [key for key in adapter.header.tensors if key not in updates]
    settings = {name: adapter.config[name] for name in _SETTINGS if adapter.config.get(name) is not None}
    tokenizer = adapter.folder if own_tokenizer(adapter.folder) else None
    return Carried({key: (adapter, key) for key in keys}, settings, adapter.stored, tokenizer)


def untrained_of(adapters: Sequence[SavedAdapter]) -> Carried:
    """Return what training did not touch, of adapters whose updates are scaled or added.

    Raises:
        InputError: Something was trained whole, or adapters bring different vocabularies.
    """
    for adapter in adapters:
        refuse_trained(adapter)
    wrapped = {name for adapter in adapters for name in adapter.pairs}
    tensors: dict[str, tuple[SavedAdapter, str]] = {}
    for parameter in dict.fromkeys(name for adapter in adapters for name in adapter.whole):
        holders = [adapter for adapter in adapters if parameter in adapter.whole]
        _refuse_different(parameter, holders)
        module, _, part = parameter.rpartition(".")
        key = f"{PREFIX}{module}.base_layer.{part}" if module in wrapped else f"{PREFIX}{parameter}"
        tensors[key] = (holders[0], holders[0].whole[parameter])
    names = {key: name for adapter in adapters for key, name in adapter.stored.items()}
    return Carried(tensors, {}, names, _one_tokenizer(adapters))


def refuse_trained(adapter: SavedAdapter) -> None:
    """Refuse an adapter that trained a weight whole, or rows of one.

    Raises:
        InputError: It did; the weight is named.
    """
    trained = [name for name in adapter.whole if adapter.is_trained(name)] or list(adapter.token_rows)
    if trained:
        message = f"{adapter.folder} trained {trained[0]} itself, which is no low-rank update."
        raise InputError(message, "Merge it into its base instead.", FIELD)


def _refuse_different(parameter: str, holders: Sequence[SavedAdapter]) -> None:
    first = holders[0]
    with first.reading() as tensors:
        own = tensors.get(first.whole[parameter])
    for other in holders[1:]:
        with other.reading() as tensors:
            found = tensors.get(other.whole[parameter])
        if own.shape != found.shape or not own.equal(found):
            tokens = "" if own.shape == found.shape else f" ({own.shape[0]:,} and {found.shape[0]:,} rows)"
            message = f"{first.folder} and {other.folder} come with different {parameter}{tokens}, of which no sum is made."
            raise InputError(message, f"Combine adapters of one vocabulary. {_MERGE}", FIELD)


def _one_tokenizer(adapters: Sequence[SavedAdapter]) -> Path | None:
    """Return the folder of the only tokenizer that adapters bring; None where they bring none."""
    folders = [adapter.folder for adapter in adapters if own_tokenizer(adapter.folder)]
    for other in folders[1:]:
        if (other / _TOKENIZER).read_bytes() != (folders[0] / _TOKENIZER).read_bytes():
            message = f"{folders[0]} and {other} come with different tokenizers of their own."
            raise InputError(message, f"Combine adapters of one vocabulary. {_MERGE}", FIELD)
    return folders[0] if folders else None
