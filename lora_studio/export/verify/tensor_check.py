"""Every written tensor read again and held against what PEFT makes of the base's: bit for bit the rounding of the exact sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_studio.export.merge.changes import in_blocks
from lora_studio.export.verify.peft_oracle import PeftOracle
from lora_studio.models.stored_tensors import StoredTensors

if TYPE_CHECKING:
    from lora_studio.export.merge.merge_plan import MergePlan
    from lora_studio.models.checkpoint_names import Group


@dataclass
class TensorReport:
    """What was found in the written tensors.

    Attributes:
        checked: Tensors read again.
        wrong: Names of those that are not what they should be.
        update: ‖exact − base‖² over all changed tensors, exact being before it was rounded.
        lost: ‖written − exact‖² over them.
    """

    checked: int = 0
    wrong: list[str] = field(default_factory=list[str])
    update: float = 0.0
    lost: float = 0.0

    @property
    def update_lost(self) -> float:
        """‖written − exact‖ / ‖exact − base‖: the share of the update that rounding cost; 0 where nothing changed."""
        return math.sqrt(self.lost / self.update) if self.update else 0.0


def check_tensors(plan: MergePlan, base: Path, written: Path, report: TensorReport) -> Iterator[int]:
    """Read every tensor of a merged folder again; give how many are done after each.

    Args:
        plan: What was to be written.
        base: The base model's folder.
        written: The merged model's.
        report: Filled on the way.
    """
    with plan.adapter.reading() as tensors:
        oracle = PeftOracle(base, plan.adapter, tensors, plan.changes.resized)
        check = _Check(plan, oracle, StoredTensors.open(written), report)
        for name in (*plan.layout.keys() - check.found.by_name.keys(), *check.found.by_name.keys() - plan.layout.keys()):
            report.wrong.append(name)
        for group in plan.names.groups:
            yield from check.group(group)
        for name in plan.names.others:
            check.plain(name)
            yield report.checked
        for name, new in plan.new.items():
            source = plan.stored.read(new.copied_from).float() if new.copied_from else torch.empty(0)
            merge = oracle.changed.get(new.parameter)
            check.changed(name, source, source if merge is None else merge(source.clone()))
            yield report.checked


class _Check:
    """Compares tensor by tensor."""

    def __init__(self, plan: MergePlan, oracle: PeftOracle, found: StoredTensors, report: TensorReport) -> None:
        self._plan, self._oracle, self.found, self._report = plan, oracle, found, report

    def group(self, group: Group) -> Iterator[int]:
        """Check the tensors that make up some parameters."""
        changed = [name for name in group.parameters if name in self._oracle.changed]
        if group.converter is not None and changed:
            yield from self._parts(group, changed)
            return
        for name in group.stored.values():
            if not changed:
                self.plain(name)
            elif name in self._plan.layout:
                weight = self._plan.stored.read(name).float()
                self.changed(name, weight, self._oracle.changed[changed[0]](weight.clone()))
            yield self._report.checked

    def _parts(self, group: Group, changed: list[str]) -> Iterator[int]:
        """Check a fused parameter: what PEFT adds to nothing, taken apart, is what each part gained."""
        shapes = {name: tuple(self._plan.model.get_parameter(name).shape) for name in changed}
        whole = any(name in self._plan.adapter.whole for name in changed)
        added = self._plan.names.scatter(group, {name: self._oracle.changed[name](torch.zeros(shapes[name])) for name in changed})
        for name, part in added.items():
            weight = self._plan.stored.read(name).float()
            self.changed(name, weight, part if whole else weight + part)
            yield self._report.checked

    def plain(self, name: str) -> None:
        """Check a tensor that the adapter does not change."""
        if name in self._plan.layout and name in self.found.by_name:
            self._compare(name, self._plan.stored.read(name))

    def changed(self, name: str, base: Tensor, exact: Tensor) -> None:
        """Check a changed tensor, given the base's and the exact sum in float32, and add up what rounding cost."""
        if name not in self.found.by_name:
            return
        written = self._compare(name, exact)
        for found, wanted in zip(in_blocks(written), in_blocks(exact), strict=True):
            self._report.lost += float((found.double() - wanted.double()).square().sum())
        if base.shape == exact.shape:
            for wanted, before in zip(in_blocks(exact), in_blocks(base), strict=True):
                self._report.update += float((wanted.double() - before.double()).square().sum())

    def _compare(self, name: str, expected: Tensor) -> Tensor:
        written = self.found.read(name)
        self._report.checked += 1
        same = written.shape == expected.shape and all(map(_same_bits, in_blocks(written), in_blocks(expected)))
        if not same:
            self._report.wrong.append(name)
            return expected
        return written


def _same_bits(written: Tensor, expected: Tensor) -> bool:
    rounded = expected.to(written.dtype).contiguous().view(-1).view(torch.uint8)
    return torch.equal(written.contiguous().view(-1).view(torch.uint8), rounded)
