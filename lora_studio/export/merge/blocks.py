"""The work of a merge that goes row by row: read a block, add its update, round it, write it; a block never leaves a core's cache.

The update of a block is the product of some rows of B with A. Whether that is bit for bit those rows of the whole product, as PEFT makes
it, is tried out once for each shape; where it is not, the whole product is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_studio.core.errors import StudioError
from lora_studio.models.errors import IncompleteModelError

if TYPE_CHECKING:
    from lora_studio.adapters.saved_adapter import AdapterTensors
    from lora_studio.export.merge.changes import AddUpdate
    from lora_studio.export.merge.merge_plan import MergePlan
    from lora_studio.export.merge.shards import ShardWriter

_BLOCK_VALUES = 1 << 19


class BlockWork:
    """One tensor to go through, in runs of rows; all memory is taken once and used for every run.

    Attributes:
        name: On disk.
        width: Values in a row.
    """

    def __init__(self, name: str, plan: MergePlan, writer: ShardWriter) -> None:
        """Take the tensor of this name in the base's files."""
        self.name = name
        self._writer = writer
        self._stored = plan.stored.by_name[name]
        self._dtype = plan.torch_dtype(name)
        self._rows = self._stored.entry.shape[0] if self._stored.entry.shape else 1
        self.width = self._stored.entry.elements // max(1, self._rows)
        self._rows_at_once = _rows_in_block(self._rows, self.width)

    def add(self, delta: Callable[[slice, Tensor], Tensor]) -> None:
        """Add an update, round and write.

        Args:
            delta: Given some rows and memory that it may use, rows × width in float32, gives what is added to them.

        Raises:
            StudioError: A sum is not finite, or too large for the dtype.
            OSError: The disk does not take it.
        """
        scratch = torch.empty(self._rows_at_once, self.width)
        self._go_through(lambda rows, values: values.add_(delta(rows, scratch[: values.shape[0]])))

    def cast(self) -> None:
        """Round and write; raises as `add` does."""
        self._go_through(lambda _rows, _values: None)

    def _go_through(self, change: Callable[[slice, Tensor], object]) -> None:
        raw = torch.empty(self._rows_at_once, self.width, dtype=self._stored.dtype)
        values = raw if raw.dtype == torch.float32 else torch.empty(raw.shape)
        rounded = values if self._dtype == torch.float32 else raw if raw.dtype == self._dtype else torch.empty(raw.shape, dtype=self._dtype)
        with self._stored.file.open("rb", buffering=0) as file:
            for first in range(0, self._rows, self._rows_at_once):
                count = min(self._rows_at_once, self._rows - first)
                read_into(file, raw[:count], self._stored.start + first * self.width * raw.element_size())
                if values is not raw:
                    values[:count].copy_(raw[:count])
                change(slice(first, first + count), values[:count])
                refuse_not_finite(self.name, values[:count])
                if rounded is not values:
                    rounded[:count].copy_(values[:count])
                    refuse_overflow(self.name, rounded[:count])
                self._writer.write_part(self.name, first * self.width, rounded[:count])


class Product:
    """B·A by blocks of the weight's rows, of a stack of experts by experts, where that gives the bits of the whole product."""

    def __init__(self) -> None:
        self._same_bits: dict[tuple[object, ...], bool] = {}

    def adder(self, update: AddUpdate, tensors: AdapterTensors, *, stacked: bool = False) -> Callable[[BlockWork], None]:
        """Return the work that adds an update to its weight; A and B are read now.

        Args:
            update: Without DoRA's magnitudes.
            tensors: The open adapter.
            stacked: Whether the weight is a stack of matrices, one for each expert.
        """
        if stacked:
            return self._stack_adder(update, tensors)
        a, b = tensors.factors(update.pair.name)
        scale = update.pair.scale
        left, right = (a.T, b.T) if update.turned else (b, a)
        key = (tuple(a.shape), tuple(b.shape), update.turned)
        if key not in self._same_bits:
            self._same_bits[key] = _gives_same_bits(a, b, turned=update.turned)
        if self._same_bits[key]:
            return lambda work: work.add(lambda rows, scratch: torch.mm(left[rows], right, out=scratch).mul_(scale))

        def add_whole(work: BlockWork) -> None:
            product = b @ a
            turned = product.T if update.turned else product
            work.add(lambda rows, _scratch: turned[rows].mul_(scale))

        return add_whole

    def _stack_adder(self, update: AddUpdate, tensors: AdapterTensors) -> Callable[[BlockWork], None]:
        a, b = tensors.factors(update.pair.name)
        scale = update.pair.scale
        left, right = _expert_factors(update, a, b)
        key = (tuple(a.shape), tuple(b.shape), update.turned, "stacked")
        if key not in self._same_bits:
            self._same_bits[key] = _gives_same_stack(left, right, update.delta(tensors), scale)
        if self._same_bits[key]:
            return lambda work: work.add(lambda rows, scratch: _some_experts(left, right, rows, scratch).mul_(scale))

        def add_whole(work: BlockWork) -> None:
            whole = update.delta(tensors).reshape(left.shape[0], -1)
            work.add(lambda rows, _scratch: whole[rows])

        return add_whole


def _expert_factors(update: AddUpdate, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Part A and B by expert, so that left times right is each one's update as its weight is stored: views, experts × … × ….

    A holds the ranks of one expert after another, B those of all experts rank by rank.
    """
    experts = max(1, update.pair.experts)
    of_a = a.reshape(experts, -1, a.shape[-1])
    of_b = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1)
    return (of_a.transpose(1, 2), of_b.transpose(1, 2)) if update.turned else (of_b, of_a)


def _some_experts(left: Tensor, right: Tensor, rows: slice, scratch: Tensor) -> Tensor:
    """Multiply out some experts' updates, unscaled, into memory of experts × values."""
    torch.bmm(left[rows], right[rows], out=scratch.view(-1, left.shape[1], right.shape[2]))
    return scratch


def _gives_same_stack(left: Tensor, right: Tensor, whole: Tensor, scale: float) -> bool:
    """Return whether some experts at a time give the bits of PEFT's product of all."""
    whole = whole.reshape(left.shape[0], -1)
    count = _rows_in_block(left.shape[0], whole.shape[1])
    scratch = torch.empty(count, whole.shape[1])
    for first in range(0, left.shape[0], count):
        rows = slice(first, min(first + count, left.shape[0]))
        if not torch.equal(_some_experts(left, right, rows, scratch[: rows.stop - first]).mul_(scale), whole[rows]):
            return False
    return True


def _rows_in_block(rows: int, width: int) -> int:
    return max(1, min(rows, _BLOCK_VALUES // max(1, width)))


def _gives_same_bits(a: Tensor, b: Tensor, *, turned: bool) -> bool:
    """Return whether blocks of rows are the rows of the whole product; how it is computed depends on shapes alone."""
    whole = (b @ a).T if turned else b @ a
    left, right = (a.T, b.T) if turned else (b, a)
    rows = _rows_in_block(*whole.shape)
    scratch = torch.empty(rows, whole.shape[1])
    for first in range(0, whole.shape[0], rows):
        expected = whole[first : first + rows]
        if not torch.equal(torch.mm(left[first : first + rows], right, out=scratch[: expected.shape[0]]), expected):
            return False
    return True


def refuse_not_finite(name: str, values: Tensor) -> None:
    """Raise `StudioError` where a sum is NaN or infinite."""
    if values.is_floating_point() and not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise StudioError(f"{name} cannot be merged: the sum is not finite.", "The adapter, or its base, is damaged.", "source")


def refuse_overflow(name: str, values: Tensor) -> None:
    """Raise `StudioError` where a finite value became infinite in float16; their sum, much quicker to make, then is no number either."""
    if values.dtype == torch.float16 and not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise StudioError(f"{name} has values too large for float16.", "Choose bfloat16 or float32.", "dtype")


def read_into(file: IO[bytes], block: Tensor, place: int) -> None:
    """Fill a tensor with the bytes of a file from a place on.

    Raises:
        IncompleteModelError: The file ends before.
    """
    flat: Any = block.view(-1).view(torch.uint8).numpy()
    room = memoryview(flat)
    file.seek(place, os.SEEK_SET)
    while room:
        got: Any = file.readinto(room)  # type: ignore[attr-defined]
        if not got:
            raise IncompleteModelError(f"{file.name} is cut: it ends inside its weights.", "Download or copy the model again.", "source")
        room = room[got:]
