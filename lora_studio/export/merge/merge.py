"""Merging an adapter into its base, straight from the base's files to new ones, one tensor at a time.

Sums are in float32 and rounded once; in float32 the result is PEFT's `merge_and_unload(safe_merge=True)` bit for bit. What can be done
row by row goes in blocks that fit a core's cache, on a few threads; only DoRA and the like need a tensor as a whole, and at most three
times the largest in float32 is held.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_studio.adapters.vocabulary import grown
from lora_studio.export.merge.blocks import BlockWork, Product, refuse_not_finite, refuse_overflow
from lora_studio.export.merge.changes import AddBias, AddUpdate, Change, Replace, ReplaceRows, Resize, in_blocks
from lora_studio.export.merge.merge_plan import MergePlan
from lora_studio.export.merge.shards import ShardWriter

if TYPE_CHECKING:
    from lora_studio.adapters.saved_adapter import AdapterTensors
    from lora_studio.models.checkpoint_names import Group

_MOST_WORKERS = 4
_AHEAD = 2  # jobs waiting, for each worker


def merge_into(plan: MergePlan, folder: Path) -> Iterator[int]:
    """Write the merged weights and `config.json` into a folder; give the bytes written so far as they grow.

    Args:
        plan: What to write.
        folder: An empty folder.

    Raises:
        StudioError: A merged weight is not finite, or too large for its dtype.
        OSError: The disk does not take it.
    """
    (folder / "config.json").write_text(json.dumps(plan.config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    done = 0
    with ShardWriter(folder, plan.layout) as writer, plan.adapter.reading() as tensors, _Workers() as workers:
        for name in _Merging(plan, tensors, writer, workers).all():
            done += plan.layout[name].bytes
            yield done


class _Workers:
    """A few threads that do the work of blocks, each on one core; the tensors that they are done with come back in their order."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._count = max(1, min(_MOST_WORKERS, self._threads))
        self._pool = ThreadPoolExecutor(self._count, "merge", initializer=_use_one_core)
        self._pending: deque[tuple[str, Future[None]]] = deque()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)  # what one thread sets, torch takes for those yet to be made

    def submit(self, name: str, work: Callable[[], None]) -> Iterator[str]:
        """Have something done; give the names of tensors that are done with."""
        self._pending.append((name, self._pool.submit(work)))
        while len(self._pending) > _AHEAD * self._count:
            yield self._next()

    def finish(self) -> Iterator[str]:
        """Wait for all that is left."""
        while self._pending:
            yield self._next()

    def _next(self) -> str:
        name, future = self._pending.popleft()
        future.result()
        return name


def _use_one_core() -> None:
    torch.set_num_threads(1)


class _Merging:
    """Goes through the base's tensors in the order of its files."""

    def __init__(self, plan: MergePlan, tensors: AdapterTensors, writer: ShardWriter, workers: _Workers) -> None:
        self._plan, self._tensors, self._writer, self._workers = plan, tensors, writer, workers
        self._group_of = {name: group for group in plan.names.groups for name in group.stored.values()}
        self._product = Product()
        self._unpacked: frozenset[str] = plan.stored.unpacked

    def all(self) -> Iterator[str]:
        """Write everything; give the names of tensors as they are written."""
        fused: set[int] = set()
        for name in self._plan.stored.by_name:
            group = self._group_of.get(name)
            changes = self._plan.changes_of(group) if group else {}
            if name not in self._plan.layout:
                continue
            if group is None or not changes:
                yield from self._keep(name)
            elif group.converter is None:
                yield from self._change(name, changes[group.parameters[0]])
            elif id(group) not in fused:
                fused.add(id(group))
                yield from self._change_parts(group, changes)
        yield from self._workers.finish()
        for name, new in self._plan.new.items():
            self._write(name, self._merged(new.copied_from, self._plan.changes.by_parameter.get(new.parameter, [])))
            yield name

    def _keep(self, name: str) -> Iterator[str]:
        """Take a tensor over as it is, or in another dtype block by block."""
        stored = self._plan.stored.by_name[name]
        if name in self._unpacked:
            yield from self._whole(name, [])
        elif stored.entry.dtype == self._plan.layout[name].dtype:
            yield from self._workers.submit(name, lambda: self._writer.copy(name, stored))
        else:
            yield from self._workers.submit(name, BlockWork(name, self._plan, self._writer).cast)

    def _change(self, name: str, changes: list[Change]) -> Iterator[str]:
        plain = len(changes) == 1 and isinstance(changes[0], AddUpdate) and not changes[0].pair.magnitude_key
        if plain and name not in self._unpacked:
            assert isinstance(changes[0], AddUpdate)
            add = self._product.adder(changes[0], self._tensors, stacked=len(self._plan.stored.by_name[name].entry.shape) > 2)
            yield from self._workers.submit(name, lambda: add(BlockWork(name, self._plan, self._writer)))
        else:
            yield from self._whole(name, changes)

    def _whole(self, name: str, changes: list[Change]) -> Iterator[str]:
        """Change a tensor of which more than some rows are needed at once."""
        yield from self._workers.finish()
        self._write(name, self._merged(name, changes))
        yield name

    def _change_parts(self, group: Group, changes: dict[str, list[Change]]) -> Iterator[str]:
        """Change a parameter that lies on disk in parts: its update is taken apart as it is."""
        yield from self._workers.finish()
        replaced = any(isinstance(made[0], Replace) for made in changes.values())
        parts = self._plan.names.scatter(group, {name: self._together(made) for name, made in changes.items()})
        for name, part in parts.items():
            self._write(name, part if replaced else self._plan.stored.read(name).float().add_(part))
            yield name

    def _together(self, changes: list[Change]) -> Tensor:
        """Return what is added to a fused parameter, or takes its place."""
        first = changes[0]
        if isinstance(first, Replace):
            value = first.value(self._tensors)
            for update in changes[1:]:
                assert isinstance(update, AddUpdate)
                value = update.add(value, self._tensors)
            return value
        assert isinstance(first, AddUpdate)
        return first.delta(self._tensors)

    def _merged(self, name: str, changes: list[Change]) -> Tensor:
        """Return a merged tensor as a whole, in float32."""
        begins_anew = bool(changes) and isinstance(changes[0], Replace)
        weight = torch.empty(0) if begins_anew else self._plan.stored.read(name).float()
        for change in changes:
            match change:
                case Resize():
                    weight = grown(weight, change.rows)
                case Replace():
                    weight = change.value(self._tensors)
                case ReplaceRows():
                    change.put(weight, self._tensors)
                case AddBias():
                    change.add(weight, self._tensors)
                case AddUpdate():
                    weight = change.add(weight, self._tensors)
        return weight

    def _write(self, name: str, tensor: Tensor) -> None:
        """Round a tensor block by block and write it."""
        dtype = self._plan.torch_dtype(name)
        first = 0
        for rows in in_blocks(tensor):
            refuse_not_finite(name, rows)
            rounded = rows.to(dtype)
            refuse_overflow(name, rounded)
            self._writer.write_part(name, first, rounded)
            first += rounded.numel()
