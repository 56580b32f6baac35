"""The module tree laid out as arrays, so that a tick or a filter over 100,000 modules takes milliseconds.

Nodes stand in preorder: the nodes below node i are exactly i+1 … end[i]-1. Whatever is summed over a subtree is then
the difference of two entries of one cumulative sum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from lora_studio.core.counts import parameters_of_target
from lora_studio.core.targets import targetable_reason

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleInfo, ModuleTree

Grouping = Literal["layer", "name"]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

NO_NODE = -1


@dataclass(frozen=True)
class Nodes:
    """One layout of a module tree.

    Attributes:
        labels: What each node is called below its parent.
        names: Full name of each node's module; of the shared part of the names below it where it is a group.
        parent: Node above each; `NO_NODE` at the top.
        end: One past the last node below each.
        module: The module of each node; None for a group that is no module of the model.
        reasons: Why a module can have no adapter, or what to know of it, by node; most have none.
    """

    labels: list[str]
    names: list[str]
    parent: Ints
    end: Ints
    module: list[ModuleInfo | None]
    reasons: dict[int, str]
    targetable: Bools  # which nodes are modules that an adapter can go on

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def empty(cls) -> Nodes:
        """Return the layout of no tree."""
        none = np.zeros(0, np.int64)
        return cls([], [], none, none, [], {}, np.zeros(0, np.bool_))

    @cached_property
    def node_of(self) -> dict[str, int]:
        """Node of each module's name."""
        return {module.name: node for node, module in enumerate(self.module) if module is not None}

    @cached_property
    def by_parent(self) -> Ints:
        """All nodes, those with the same parent next to each other and in order."""
        return np.argsort(self.parent, kind="stable")

    @cached_property
    def lower_names(self) -> list[str]:
        """Full names in lower case, for the filter."""
        return [name.lower() for name in self.names]

    def sums(self, values: Bools | Ints) -> Ints:
        """Give, for each node, the sum of `values` over it and all nodes below it."""
        total = np.zeros(len(self) + 1, np.int64)
        np.cumsum(values, out=total[1:])
        return total[self.end] - total[:-1]

    def nodes(self, names: Iterable[str]) -> Ints:
        """Return the nodes of modules by their names; names that are no module here are left out."""
        node_of = self.node_of
        return np.fromiter((node_of[name] for name in names if name in node_of), np.int64)

    @cached_property
    def sizes(self) -> tuple[Ints, Ints]:
        """Return what an adapter adds to each node's module: parameters for each unit of r, and DoRA's beside them."""
        each, beside = np.zeros(len(self), np.int64), np.zeros(len(self), np.int64)
        for node in np.flatnonzero(self.targetable).tolist():
            module = self.module[node]
            if module is not None:
                each[node] = parameters_of_target(module, 1)
                beside[node] = parameters_of_target(module, 1, use_dora=True) - each[node]
        return each, beside

    def below(self, node: int) -> slice:
        """Return the slice of a node and all nodes below it."""
        return slice(node, int(self.end[node]))


def lay_out(tree: ModuleTree, grouping: Grouping) -> Nodes:
    """Lay a module tree out by layer (as the model is built) or by name (every layer's q_proj below one node)."""
    root = _Branch()
    for module in tree.modules:
        parts = _parts(module, grouping, tree)
        if parts:
            root.add(module, parts)
    return _preorder(root, tree)


class _Branch:
    """A node while the tree is put together."""

    __slots__ = ("below", "module")

    def __init__(self) -> None:
        self.module: ModuleInfo | None = None
        self.below: dict[str, _Branch] = {}

    def add(self, module: ModuleInfo, parts: list[str]) -> None:
        branch = self
        for part in parts:
            branch = branch.below.setdefault(part, _Branch())
        branch.module = module


def _parts(module: ModuleInfo, grouping: Grouping, tree: ModuleTree) -> list[str]:
    """Return the labels on the way to a module, none for one that has no row.

    By name, numbers come last (layers.0.mlp.up_proj → layers, mlp, up_proj, 0), and a layer is no row of its own.
    """
    parts = module.name.split(".") if module.name else []
    numbers = [part for part in parts if part.isdecimal()]
    if grouping == "layer" or not numbers:
        return parts
    if module.name in tree.children and not module.targetable:
        return []  # its group is made by what is below it
    return [*(part for part in parts if not part.isdecimal()), ".".join(numbers)]


def _preorder(root: _Branch, tree: ModuleTree) -> Nodes:
    labels: list[str] = []
    names: list[str] = []
    parents: list[int] = []
    ends: list[int] = []
    modules: list[ModuleInfo | None] = []
    pending: list[tuple[str, _Branch, int] | int] = [(label, branch, NO_NODE) for label, branch in reversed(root.below.items())]
    while pending:
        entry = pending.pop()
        if isinstance(entry, int):  # everything below this node has been laid out
            ends[entry] = len(labels)
            continue
        label, branch, parent = entry
        node = len(labels)
        labels.append(label)
        names.append(branch.module.name if branch.module else f"{names[parent]}.{label}" if parent != NO_NODE else label)
        parents.append(parent)
        ends.append(node + 1)
        modules.append(branch.module)
        if branch.below:
            pending.append(node)
            pending.extend((name, child, node) for name, child in reversed(branch.below.items()))
    reasons, targetable = _reasons(modules, tree)
    return Nodes(labels, names, np.array(parents, np.int64), np.array(ends, np.int64), modules, reasons, targetable)


def _reasons(modules: list[ModuleInfo | None], tree: ModuleTree) -> tuple[dict[int, str], Bools]:
    """Find out which nodes can have an adapter, and what to know of each."""
    reasons: dict[int, str] = {}
    targetable = np.zeros(len(modules), np.bool_)
    for node, module in enumerate(modules):
        if module is None:
            continue
        refused = targetable_reason(module, tree)
        targetable[node] = not refused
        if refused or module.remark:
            reasons[node] = refused or module.remark
    return reasons, targetable


class Filter:
    """A filter by part of a name, by glob where it holds `*` or `?`, or by regular expression between slashes.

    Attributes:
        text: As typed.
        error: What is wrong with the regular expression; empty when nothing is.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.error = ""
        self._matches = self._matcher()

    def __bool__(self) -> bool:
        return bool(self.text) and not self.error

    def matching(self, nodes: Nodes) -> Bools:
        """Say for each node whether its full name matches, in any case of letters."""
        return np.array(self._matches(nodes.lower_names), np.bool_)

    def _matcher(self) -> Callable[[list[str]], list[bool]]:
        text = self.text.lower()
        if _is_regex(self.text):
            return self._by_regex(self.text.strip("/"))
        if "*" in text or "?" in text:
            return self._by_regex(_regex_of_glob(text))
        return lambda names: [text in name for name in names]

    def _by_regex(self, pattern: str) -> Callable[[list[str]], list[bool]]:
        try:
            search = re.compile(pattern, re.IGNORECASE).search
        except re.error as error:
            self.error = str(error)
            return lambda names: [False] * len(names)
        return lambda names: [search(name) is not None for name in names]


def _is_regex(text: str) -> bool:
    """Tell a regular expression by its slashes, or by a sign that neither a name nor a glob holds."""
    return (len(text) > 1 and text[0] == text[-1] == "/") or any(sign in text for sign in "|()[]\\^$+{}")


def _regex_of_glob(text: str) -> str:
    """Anchor a glob at a dot or either end of the name: `*.q_proj`, `layers.?.mlp*`."""
    inner = "".join(".*" if sign == "*" else "[^.]" if sign == "?" else re.escape(sign) for sign in text)
    return rf"(?:^|\.){inner}$"


def shown_by(nodes: Nodes, matching: Bools) -> Bools:
    """Return the nodes to show: those that match, all below them, and all above."""
    cover = np.zeros(len(nodes) + 1, np.int64)
    matched = np.flatnonzero(matching)
    np.add.at(cover, matched, 1)
    np.subtract.at(cover, nodes.end[matched], 1)
    return (np.cumsum(cover)[:-1] > 0) | (nodes.sums(matching) > 0)


def visible_rows(nodes: Nodes, shown: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """Number the shown nodes below each parent.

    Args:
        nodes: The layout.
        shown: Which nodes are shown; a shown node's parent is shown too.

    Returns:
        `order`: the shown nodes, those with the same parent next to each other; `first`: where in it the children of
        each node start, the top's at the last entry (index -1); `count`: how many there are, likewise; `row` of each
        shown node below its parent.
    """
    order = nodes.by_parent[shown[nodes.by_parent]]
    parents = nodes.parent[order]
    size = len(nodes) + 1
    count = np.bincount(np.where(parents == NO_NODE, size - 1, parents), minlength=size)
    starts = np.flatnonzero(np.diff(parents, prepend=-2)) if len(order) else np.zeros(0, np.int64)
    first = np.zeros(size, np.int64)
    first[parents[starts]] = starts  # the top's parent, -1, is the last entry
    row = np.zeros(len(nodes), np.int64)
    row[order] = np.arange(len(order)) - first[parents]
    return order, first, count, row
