"""What a module is part of: attention, the MLP, or neither, by the classes above it and not by its name.

Families name attributes as they like (`mixer`, `temporal_block`, `ffn`), while transformers names classes for what they are. So the
classes from the numbered layer down to a module decide, without the family's name in front of them; only where they say nothing,
attributes do.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Literal

from lora_studio.core.modules import ModuleInfo, ModuleTree

Part = Literal["attention", "mlp", ""]

_FAMILY = re.compile(r"(For[A-Z]\w*|LMHeadModel|WithLMHead\w*|Model|LMHead)$")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NEITHER = frozenset(
    {
        "mamba",
        "mixer",
        "ssm",
        "conv",
        "convolution",
        "indexer",
        "compressor",
        "scorer",
        "recurrent",
        "rglru",
        "lstm",
        "router",
        "laurel",
        "hyper",
        "vision",
        "audio",
    }
)
_ATTENTION = frozenset({"attention", "attn", "delta"})
_MLP = frozenset({"mlp", "feed", "ffn", "expert", "experts", "moe", "ff"})

_LAYER = frozenset({"decoder", "layer"})  # a layer within a layer, which holds both


class Blocks:
    """The parts of one tree's layers."""

    def __init__(self, tree: ModuleTree) -> None:
        """Take the tree; its architecture says what its classes' names begin with."""
        self._tree = tree
        self._family = _FAMILY.sub("", tree.architecture)
        self._known: dict[str, frozenset[str]] = {}
        self._layers: dict[str, bool] = {}

    def part_of(self, module: ModuleInfo) -> Part:
        """Say what a module in a numbered layer is part of; empty for neither, and outside layers."""
        layer, above = _layer_and_above(module.name)
        if layer is None:
            return ""
        found = self._decided(above)
        if found != "unknown":
            return found
        numbered = _read([self._words(self._tree.by_name[layer].class_name)])  # XLM numbers its attentions and its MLPs, not its layers
        if numbered in ("attention", "mlp"):
            return numbered
        # Old families have an MLP's projections in the layer itself: they are it where no class of the layer is.
        return "" if self._has_mlp(layer) else "mlp"

    def is_router(self, module: ModuleInfo) -> bool:
        """Return whether a Linear chooses among the experts beside it."""
        if module.kind != "linear":
            return False
        beside = self._tree.children.get(module.parent, ())
        counts = {len(self._tree.children.get(near.name, ())) for near in beside if near.class_name == "ModuleList"}
        counts |= {below.num_experts for near in beside for below in self._tree.children.get(near.name, ()) if below.num_experts > 1}
        return module.out_features in counts - {0}

    def _decided(self, names: list[str]) -> Part | Literal["unknown"]:
        """Read the classes from the layer down, and where they say nothing the names."""
        classes = [self._words(self._tree.by_name[name].class_name) for name in names]
        found = _read(classes)
        return _read([_words_of(name.rpartition(".")[2]) for name in names]) if found == "unknown" else found

    def _words(self, class_name: str) -> frozenset[str]:
        known = self._known.get(class_name)
        if known is None:
            shared = takewhile(lambda letters: letters[0] == letters[1], zip(class_name, self._family, strict=False))
            own = class_name[sum(1 for _ in shared) :] or class_name
            known = self._known[class_name] = _words_of(own.replace("MoE", "Moe"))
        return known

    def _has_mlp(self, layer: str) -> bool:
        """Return whether some class in a layer is an MLP's."""
        known = self._layers.get(layer)
        if known is None:
            waiting, known = [below.name for below in self._tree.children.get(layer, ())], False
            while waiting and not known:
                name = waiting.pop()
                known = bool(self._words(self._tree.by_name[name].class_name) & _MLP)
                waiting.extend(below.name for below in self._tree.children.get(name, ()))
            self._layers[layer] = known
        return known


def _words_of(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORDS.findall(name))


def _read(chain: list[frozenset[str]]) -> Part | Literal["unknown"]:
    """Say what words from the outside in mean: the first that is attention or MLP decides, unless one further in is neither."""
    found: Part | Literal["unknown"] = "unknown"
    for words in chain:
        if words & _NEITHER:
            return ""
        if found == "unknown" and not words >= _LAYER:
            found = "attention" if words & _ATTENTION else "mlp" if words & _MLP else found
    if not chain or chain[-1] & _MLP:
        return found
    return "" if "gating" in chain[-1] or (found == "mlp" and "gate" in chain[-1]) else found


def _layer_and_above(name: str) -> tuple[str | None, list[str]]:
    """Return the numbered layer a module is in, and every name from below it down to the one above the module."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    if at is None or at == len(parts) - 1:
        return None, []
    return ".".join(parts[: at + 1]), [".".join(parts[:end]) for end in range(at + 2, len(parts))]
