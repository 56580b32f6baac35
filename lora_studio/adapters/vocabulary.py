"""How many tokens a base has with an adapter on it: one that added tokens resized embedding and head, and its files say to what.

Whoever adds tokens resizes the model (`resize_token_embeddings`) and trains embedding, head or single rows. What PEFT saves of that
depends on its settings: both ends whole, one of them, or trained rows alone. Rows that the file lacks are those that transformers gives new
tokens: the mean of the others (`mean_resizing`, its way since 4.46), as whoever loads the adapter with PEFT has to make them.
No torch at module level.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.adapters.saved_adapter import FIELD, SavedAdapter
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleInfo, ModuleTree

if TYPE_CHECKING:
    from torch import Tensor

_MOST_BYTES = 200_000_000


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a base with an adapter on it.

    Attributes:
        rows: Rows of embedding and head.
        base_rows: Rows that the base has by itself.
        unsaved: Names of embedding and head, where the adapter's file has no rows of it for the new tokens.
        tokens: Tokens of the adapter's own tokenizer, where these are more than its base's.
    """

    rows: int = 0
    base_rows: int = 0
    unsaved: tuple[str, ...] = ()
    tokens: int = 0

    @property
    def resized(self) -> bool:
        """Whether it is another than the base's."""
        return self.rows != self.base_rows

    @classmethod
    def of(cls, adapter: SavedAdapter, tree: ModuleTree, base: Path | None) -> Vocabulary:
        """Find it.

        Args:
            adapter: The adapter.
            tree: The base's modules.
            base: The base's folder, whose tokenizer the adapter's own is held against; None where there is none.

        Raises:
            InputError: The adapter's parts are of vocabularies of several sizes, or of one that could be another base's.
        """
        embedding, head = vocabulary_ends(tree)
        if embedding is None:
            return cls()
        ends = [end for end in (embedding, head) if end is not None]
        tokens, base_rows = _added_tokens(adapter.folder, base), _rows_of(embedding)
        rows = _rows(adapter, ends, tokens)
        if rows == base_rows:
            return cls(rows, base_rows, tokens=tokens)
        new = set(range(base_rows, rows))
        unsaved = tuple(end.name for end in ends if not _is_known(adapter, end, ends if tree.tied_embeddings else [end], new))
        if len(unsaved) == len(ends) and not 0 < tokens <= rows:  # nothing but a number speaks for this base
            raise _misfit(adapter, f"it is of a vocabulary of {rows:,} tokens, the base's has {base_rows:,}")
        return cls(rows, base_rows, unsaved if new else (), tokens)

    def findings(self, field: str = FIELD) -> list[Finding]:
        """Say what there is to know of it; nothing where it is the base's and fits its tokenizer."""
        found: list[Finding] = []
        if self.tokens > self.rows:
            message = f"Its tokenizer has {self.tokens:,} tokens, its vocabulary {self.rows:,} rows: the last tokens cannot be used."
            found.append(Finding("warning", "tokens_beyond", message, "Save the adapter again with the embeddings of its tokens.", field))
        if not self.resized:
            return found
        message = f"It comes with a vocabulary of {self.rows:,} tokens in place of the base's {self.base_rows:,}."
        found.append(Finding("note", "vocabulary_resized", message, "Embedding, head and config are resized with it.", field))
        if self.unsaved:
            named = " and ".join(self.unsaved)
            message = (
                f"Its file lacks rows of {named} for new tokens, which were not trained: the mean of the others stands there, as "
                "transformers fills them."
            )
            hint = "Where they began otherwise, save it again with save_pretrained(…, save_embedding_layers=True)."
            found.append(Finding("warning", "rows_unsaved", message, hint, field))
        return found


def vocabulary_ends(tree: ModuleTree) -> tuple[ModuleInfo | None, ModuleInfo | None]:
    """Return the modules whose rows are tokens: input embedding and head, each None where it is not found."""
    head = tree.by_name.get(tree.output_module) if tree.output_module else None
    embeddings = [module for module in tree.modules if module.kind == "embedding"]
    size = _rows_of(head) if head is not None else 0
    tied = next((module for module in embeddings if head is not None and module.name == head.tied_to), None)
    return tied or next((module for module in embeddings if _rows_of(module) == size), next(iter(embeddings), None)), head


def own_tokenizer(adapter: Path) -> bool:
    """Return whether an adapter carries a tokenizer of its own, as one that added tokens does."""
    return (adapter / "tokenizer.json").is_file() and (adapter / "tokenizer_config.json").is_file()


def grown(weight: Tensor, rows: int) -> Tensor:
    """Return a weight, rows × dimension or a bias, with so many rows: cut, or with the mean of all for each new one."""
    import torch

    had = weight.shape[0]
    if rows <= had:
        return weight[:rows].clone()
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - had, *weight.shape[1:])])


def resize_vocabulary(model: Any, rows: int) -> None:
    """Resize a loaded model's embedding and head to so many rows, new ones the mean of the others; in place."""
    import torch

    ends = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    if not rows or all(end.weight.shape[0] == rows for end in ends):
        return
    needs_gradient = any(end.weight.requires_grad for end in ends)
    before = [{name: parameter.detach() for name, parameter in end.named_parameters(recurse=False)} for end in ends]
    model.resize_token_embeddings(rows, mean_resizing=False)
    after = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    with torch.no_grad():
        for end, old in zip(after, before, strict=True):
            for name, parameter in end.named_parameters(recurse=False):
                parameter.requires_grad_(needs_gradient)
                if not parameter.is_meta:
                    parameter.copy_(grown(old[name], rows))


def _rows_of(end: ModuleInfo) -> int:
    return end.in_features if end.kind == "embedding" else end.out_features


def _rows(adapter: SavedAdapter, ends: list[ModuleInfo], tokens: int) -> int:
    """Return the rows that all parts of an adapter agree on; those of the base, or as many as there are tokens, where none says."""
    sizes = {f"{end.name} ({part})": size for end in ends for part, size in _saved_sizes(adapter, end).items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
        raise _misfit(adapter, f"its vocabulary has several sizes: {told} rows")
    highest = max((index + 1 for indices in adapter.token_indices.values() for index in indices), default=0)
    rows = next(iter(sizes.values()), 0)
    if rows and highest > rows:
        raise _misfit(adapter, f"it trained row {highest - 1:,} of a vocabulary of {rows:,}")
    return rows or max(_rows_of(ends[0]), highest, tokens)


def _saved_sizes(adapter: SavedAdapter, end: ModuleInfo) -> dict[str, int]:
    """Return the rows of what an adapter's file has of one end, by what it is."""
    found: dict[str, int] = {}
    whole, pair = adapter.whole.get(f"{end.name}.weight"), adapter.pairs.get(end.name)
    if whole is not None:
        found["weight"] = adapter.header.tensors[whole].shape[0]
    if pair is not None:
        found["adapter"] = adapter.header.tensors[pair.a_key].shape[1] if pair.embedding else adapter.header.tensors[pair.b_key].shape[0]
    return found


def _is_known(adapter: SavedAdapter, end: ModuleInfo, tied: list[ModuleInfo], new: set[int]) -> bool:
    """Return whether an end's new rows are saved, or trained one by one: at this end, or at one tied to it that was not trained apart."""
    holders = [one.name for one in tied if one is end or not adapter.is_trained(f"{one.name}.weight")]
    trained = {index for holder in holders for index in adapter.token_indices.get(holder, ())}
    return any(f"{holder}.weight" in adapter.whole for holder in holders) or (bool(new) and new <= trained)


def _added_tokens(adapter: Path, base: Path | None) -> int:
    """Return how many tokens an adapter's own tokenizer has, where these are more than its base's; else 0."""
    if base is None or not own_tokenizer(adapter) or not (base / "tokenizer.json").is_file():
        return 0
    own, theirs = _tokens_in(adapter / "tokenizer.json"), _tokens_in(base / "tokenizer.json")
    return own if own > theirs > 0 else 0


def _tokens_in(path: Path) -> int:
    """Count a tokenizer's tokens by the highest number; 0 where the file is not read here."""
    try:
        stat = path.stat()
        return _counted(path, stat.st_mtime_ns) if stat.st_size <= _MOST_BYTES else 0
    except OSError:
        return 0


@lru_cache(maxsize=8)  # a file of 17 MB takes longer to read than the window may wait at each change of a setting
def _counted(path: Path, _changed: int) -> int:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        vocabulary: Any = raw["model"]["vocab"]
        numbers = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [token["id"] for token in raw.get("added_tokens") or ()]
        return max((number for number in (*numbers, *added) if type(number) is int), default=-1) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0


def _misfit(adapter: SavedAdapter, what: str) -> InputError:
    message = f"The adapter {adapter.folder} does not fit this base model: {what}."
    return InputError(message, "Give the base model it was trained on, or save the adapter again with both embedding and head.", FIELD)
