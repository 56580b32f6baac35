"""A LoRA out of two full models: for each matrix the nearest low-rank update to what was changed, by its singular values.

One matrix of each model is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lora_studio.adapters.combine import from_dense
from lora_studio.adapters.deltas import Delta, rank_for_energy
from lora_studio.adapters.vocabulary import vocabulary_ends
from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.models.checkpoint_names import CheckpointNames
from lora_studio.models.inspect import empty_model, tree_of
from lora_studio.models.reading import facing
from lora_studio.models.unpacked import open_tensors

FIELD = "source"


@dataclass
class Left:
    """What was changed and a LoRA does not carry.

    Attributes:
        names: Parameters that differ: norms, biases, embeddings, fused experts.
        change: ‖tuned − base‖² over them.
        carried: ‖tuned − base‖² over the matrices that are carried.
    """

    names: list[str] = field(default_factory=list[str])
    change: float = 0.0
    carried: float = 0.0


class TwoModels:
    """A base model and one tuned from it."""

    def __init__(self, base: Path, tuned: Path) -> None:
        """Open both.

        Raises:
            InputError: They are not of one architecture and size.
        """
        self.model = model = empty_model(base)
        self.tree: ModuleTree = tree_of(model)
        other_model = empty_model(tuned)
        opened = open_tensors(base), open_tensors(tuned)
        names = CheckpointNames(model, list(opened[0].by_name)), CheckpointNames(other_model, list(opened[1].by_name))
        self._stored = facing(opened[0], names[0], model), facing(opened[1], names[1], other_model)
        self._names = names
        own, other = (found.by_parameter.keys() for found in names)
        if own != other:
            first = sorted(own ^ other)[0]
            message = f"{tuned} is not tuned from {base}: only one of them has {first}."
            raise InputError(message, "Give two models of one family and size.", FIELD)
        self._refuse_new_tokens(base, tuned)
        self.conv1d = any(module.kind == "conv1d" for module in self.tree.modules)

    def _refuse_new_tokens(self, base: Path, tuned: Path) -> None:
        """Refuse a vocabulary of another size: a LoRA of matrices has no place for it. Told by shapes alone."""
        for end in (f"{end.name}.weight" for end in vocabulary_ends(self.tree) if end is not None):
            if end not in self._names[0].by_parameter or self._names[0].by_parameter[end].converter is not None:
                continue
            own, other = (
                stored.by_name[next(iter(names.by_parameter[end].stored.values()))].entry.shape
                for stored, names in zip(self._stored, self._names, strict=True)
            )
            if own[0] != other[0] and own[1:] == other[1:]:
                message = f"{tuned} has {other[0]:,} tokens and {base} {own[0]:,} ({end}): a LoRA has no place for new tokens."
                hint = "Give a base with as many (resize_token_embeddings); what else changed in its embeddings is then told as left out."
                raise InputError(message, hint, FIELD)

    @property
    def matrices(self) -> list[str]:
        """Names of the modules whose matrices can have an update."""
        return [module.name for module in self.tree.modules if module.kind in ("linear", "conv1d") and module.targetable]

    def change(self, parameter: str) -> Tensor:
        """Return tuned − base of a parameter, in float64.

        Raises:
            InputError: They are of different shapes.
        """
        base, tuned = (
            stored.read(next(iter(names.by_parameter[parameter].stored.values())))
            for stored, names in zip(self._stored, self._names, strict=True)
        )
        if base.shape != tuned.shape:
            raise InputError(
                f"{parameter} is {tuple(base.shape)} in one model and {tuple(tuned.shape)} in the other.",
                "Give two models of one family and size.",
                FIELD,
            )
        return tuned.double() - base.double()

    def module_change(self, name: str) -> Tensor:
        """Return the change of a module's matrix, out × in."""
        change = self.change(f"{name}.weight")
        return change.T if self.tree.by_name[name].kind == "conv1d" else change

    def extracted(self, r: int | None, energy: float | None, left: Left) -> Iterator[tuple[str, Delta]]:
        """Return the updates of the matrices that were changed; what else was is noted in `left`.

        Args:
            r: The rank; None where `energy` says it.
            energy: Share of the squared change to keep in each matrix.
            left: Filled on the way.
        """
        for name in self.matrices:
            change = self.module_change(name)
            size = float(change.square().sum())
            if not size:
                continue
            left.carried += size
            rank = r if energy is None else rank_for_energy(torch.linalg.svdvals(change), energy)
            yield name, from_dense(change, min(rank or 1, *change.shape))
        self._note_left(left)

    def _note_left(self, left: Left) -> None:
        carried = {f"{name}.weight" for name in self.matrices}
        for parameter, group in self._names[0].by_parameter.items():
            if parameter in carried:
                continue
            size = 0.0
            if group.converter is None:
                size = float(self.change(parameter).square().sum())
            elif any(not torch.equal(self._stored[0].read(name), self._stored[1].read(name)) for name in group.stored.values()):
                size = float("nan")
            if size:
                left.names.append(parameter)
                left.change += size if size == size else 0.0
