"""What an adapter does to each parameter of its base: the operations of a merge, in PEFT's own order so that every bit is PEFT's.

W' = W + s·B·A; with DoRA W' = m · (W + s·B·A) / ‖W + s·B·A‖ by rows of out; saved weights, biases and token rows take the base's place.
Source: `merge` and `get_delta_weight` of the layers in PEFT 0.21's `tuners/lora/layer.py` and `variants.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_studio.adapters.saved_adapter import AdapterTensors, SavedAdapter, SavedPair
from lora_studio.adapters.vocabulary import Vocabulary
from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.models.inspect import empty_model, tree_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HINT = "Give the base model it was trained on."
_BLOCK_VALUES = 1 << 18


@dataclass(frozen=True)
class Replace:
    """A weight saved whole takes the base's place.

    Attributes:
        key: Where it lies in the adapter's file.
        trained: Whether it was trained itself (see `SavedAdapter.is_trained`).
    """

    key: str
    trained: bool = True

    def value(self, tensors: AdapterTensors) -> Tensor:
        """Return it in float32."""
        return tensors.get(self.key).float()


@dataclass(frozen=True)
class Resize:
    """Rows of embedding or head for other numbers of tokens than the base's, where the adapter's file has none (see `grown`).

    Attributes:
        rows: How many there are to be.
    """

    rows: int


@dataclass(frozen=True)
class ReplaceRows:
    """Rows of an embedding that were trained by themselves.

    Attributes:
        key: Where they lie in the adapter's file.
        rows: Their numbers, in the file's order.
    """

    key: str
    rows: tuple[int, ...]

    def put(self, weight: Tensor, tensors: AdapterTensors) -> None:
        """Put them into the weight, rows × dimension."""
        weight.index_copy_(0, torch.tensor(self.rows), tensors.get(self.key).to(weight.dtype))


@dataclass(frozen=True)
class AddBias:
    """A bias trained with B (`lora_bias`), added to the module's own.

    Attributes:
        key: Where it lies in the adapter's file.
        scale: What it is multiplied by.
    """

    key: str
    scale: float

    def add(self, bias: Tensor, tensors: AdapterTensors) -> None:
        """Add it to the module's bias."""
        bias += tensors.get(self.key).float() * self.scale


@dataclass(frozen=True)
class AddUpdate:
    """The low-rank update of one weight.

    Attributes:
        pair: Its A and B.
        turned: Whether the weight is stored in × out, as Conv1D, embeddings and some experts store it.
    """

    pair: SavedPair
    turned: bool

    def delta(self, tensors: AdapterTensors) -> Tensor:
        """Return s·B·A in float32, shaped as the weight is stored; a view where it is turned."""
        a, b = tensors.factors(self.pair.name)
        if self.pair.experts > 1:
            stacked_a = a.reshape(self.pair.experts, -1, a.shape[-1])
            stacked_b = b.reshape(b.shape[0], -1, self.pair.experts)
            order = "o r e, e r i -> e i o" if self.turned else "o r e, e r i -> e o i"
            return torch.einsum(order, stacked_b, stacked_a).mul_(self.pair.scale)
        product = (b @ a).mul_(self.pair.scale)
        return product.T if self.turned else product

    def add(self, weight: Tensor, tensors: AdapterTensors) -> Tensor:
        """Return the merged weight, in the memory of `weight` where that can be; float32."""
        if self.pair.magnitude_key:
            return self._with_magnitude(weight, tensors)
        delta = self.delta(tensors)
        return weight.add_(delta if delta.shape == weight.shape else delta.reshape(weight.shape))

    def _with_magnitude(self, weight: Tensor, tensors: AdapterTensors) -> Tensor:
        """DoRA's: each row of out is given its trained length."""
        weight.add_(self.delta(tensors))
        total = weight.T if self.turned else weight
        factor = tensors.get(self.pair.magnitude_key).float().view(-1) / torch.linalg.norm(total, dim=1)
        total.mul_(factor.view(-1, 1))
        return weight


Change = Resize | Replace | ReplaceRows | AddBias | AddUpdate


class Changes:
    """All changes of an adapter to its base, by parameter.

    Attributes:
        adapter: The adapter.
        model: The base on the meta device.
        tree: Its modules.
        by_parameter: For each parameter its changes, in the order in which they are made.
        vocabulary: The tokens of base and adapter together.
        resized: New number of rows of embedding and head, where the adapter has other tokens than the base.
    """

    def __init__(self, adapter: SavedAdapter, tree: ModuleTree, model: PreTrainedModel, base: Path | None = None) -> None:
        """Find them, and see that the adapter fits this base.

        Args:
            adapter: Opened with the base's tree.
            tree: The base's.
            model: The base on the meta device.
            base: Its folder, for its tokenizer.

        Raises:
            InputError: It is of another base, by names or shapes, or of a kind that cannot be merged.
        """
        refuse_changed_base(adapter)
        self.adapter, self.model, self.tree = adapter, model, tree
        self._state: dict[str, Tensor] = model.state_dict()
        self.by_parameter: dict[str, list[Change]] = {}
        self.vocabulary = Vocabulary.of(adapter, tree, base)
        self.resized: dict[str, int] = {}
        if self.vocabulary.resized:
            self.resized = dict.fromkeys(sorted(vocabulary_weights(model)), self.vocabulary.rows)
        for parameter, rows in self.resized.items():
            if parameter not in adapter.whole:
                self._take(parameter, Resize(rows))
        for parameter, key in adapter.whole.items():
            self._take_whole(parameter, key)
        for name, key in adapter.token_rows.items():
            self._take(f"{name}.weight", ReplaceRows(key, tuple(adapter.token_indices[name])))
        for pair in adapter.pairs.values():
            self._take_pair(pair)

    @classmethod
    def of(cls, base: Path, adapter: Path) -> Changes:
        """Find the changes of the adapter in one folder to the base model in another.

        Raises:
            InputError: It does not fit, or cannot be merged.
        """
        model = empty_model(base)
        tree = tree_of(model)
        return cls(SavedAdapter.open(adapter, tree), tree, model, base)

    @property
    def trained_tokens(self) -> list[int]:
        """Tokens that the base does not have, or whose rows were trained by themselves."""
        new = range(self.vocabulary.base_rows, self.vocabulary.rows)
        return sorted({*new, *(index for indices in self.adapter.token_indices.values() for index in indices)})

    def _take(self, parameter: str, change: Change) -> None:
        if parameter not in self._state:
            raise self._misfit(f"it has {parameter}, which the base has not")
        self.by_parameter.setdefault(parameter, []).append(change)

    def _take_whole(self, parameter: str, key: str) -> None:
        self._take(parameter, Replace(key, self.adapter.is_trained(parameter)))
        given, own = self.adapter.header.tensors[key].shape, tuple(self._state[parameter].shape)
        wanted = (self.resized[parameter], *own[1:]) if parameter in self.resized else own
        if given != wanted:
            raise self._misfit(f"its {parameter} is {given}, the base's {wanted}")

    def _take_pair(self, pair: SavedPair) -> None:
        module = self.tree.by_name.get(pair.name)
        if module is None or module.kind == "other":
            raise self._misfit(f"it adapts {pair.name}, which the base has not")
        a, b = (self.adapter.header.tensors[key].shape for key in (pair.a_key, pair.b_key))
        rows = self.resized.get(f"{pair.name}.weight")
        into, out = module.in_features, module.out_features
        if rows is not None:
            into, out = (rows, out) if pair.embedding else (into, rows)
        if (a[1], b[0]) != (into, out):
            raise self._misfit(f"A and B of {pair.name} go from {a[1]} to {b[0]}, the base's module from {into} to {out}")
        parameter = pair.name if module.kind == "experts" else f"{pair.name}.weight"
        self._take(parameter, AddUpdate(pair, self._is_turned(pair, module.kind)))
        if pair.bias_key:
            if not module.has_bias:
                raise InputError(
                    f"{pair.name} has no bias that the adapter's (lora_bias) could be merged into.",
                    "Export the adapter instead of merging it.",
                    "kind",
                )
            self._take(f"{pair.name}.bias", AddBias(pair.bias_key, pair.scale))

    def _is_turned(self, pair: SavedPair, kind: str) -> bool:
        if kind != "experts":
            return kind in ("conv1d", "embedding")
        owner = self.model.get_submodule(pair.name.rpartition(".")[0])
        return pair.experts > 1 and bool(getattr(owner, "is_transposed", False))

    def _misfit(self, what: str) -> InputError:
        return InputError(f"The adapter {self.adapter.folder} does not fit this base model: {what}.", _HINT, "source")


def refuse_changed_base(adapter: SavedAdapter) -> None:
    """Refuse an adapter that began by changing its base (PiSSA, OLoRA and the like): on the base as it is it means something else.

    Raises:
        InputError: It is one.
    """
    if adapter.changed_base:
        raise InputError(
            f"The adapter {adapter.folder} began with init_lora_weights {adapter.changed_base!r}, which changes the base before the first "
            "step.",
            "Save it as a plain LoRA where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).",
            "source",
        )


def in_blocks(tensor: Tensor) -> Iterator[Tensor]:
    """Return a tensor's rows in runs that fit a core's cache; a single number, which has no axis, is one run of one."""
    if not tensor.dim():
        return iter((tensor.view(1),))
    if not tensor.numel():
        return iter(())
    rows = max(1, _BLOCK_VALUES // max(1, tensor.numel() // max(1, tensor.shape[0])))
    return iter(tensor.split(rows))


def vocabulary_weights(model: PreTrainedModel) -> set[str]:
    """Name the parameters whose rows are tokens: those of embedding and head, and the head's bias."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if any(module is end for end in ends)
        for own, _ in module.named_parameters(recurse=False, remove_duplicate=False)
    }
