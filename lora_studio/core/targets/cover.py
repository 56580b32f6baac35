"""The cheapest entries that match exactly the wanted names, by PEFT's rule of endings.

An entry matches the name equal to it and every name ending in a dot and it. So the endings of all names form a tree in which an
entry is a node and matches everything at or below it; of two entries either one holds the other or they share nothing. A cheapest
set of included and excluded nodes is found going down that tree once, which stops wherever all names below are wanted alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Wish(Enum):
    """What is to happen to a name: be matched, not be matched, or nobody cares unless an entry is its complete name."""

    IN = 1
    OUT = 2
    EITHER = 3


Member = tuple[list[str], Wish]
"""A name, split into its parts, and what is wished of it."""


class Cost(NamedTuple):
    """Entries first, then their characters."""

    entries: int
    characters: int


@dataclass(frozen=True)
class Cover:
    """Entries to include and to exclude, and what they cost."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def cost(self) -> Cost:
        """Number of entries, and of their characters."""
        return Cost(len(self.include) + len(self.exclude), sum(map(len, self.include)) + sum(map(len, self.exclude)))

    def plus(self, other: Cover) -> Cover:
        """Put two covers together."""
        return Cover(self.include + other.include, self.exclude + other.exclude)


NOTHING = Cover()
_NO_LIMIT = 1 << 60


class Group:
    """Names that share an ending: a node of the tree of endings."""

    def __init__(self, members: list[Member], depth: int) -> None:
        """Take the names, split into parts, that agree in their last `depth` parts."""
        self.members = members
        self.depth = depth
        wishes = {wish for _, wish in members}
        self.wanted = Wish.IN in wishes
        self.unwanted = Wish.OUT in wishes
        self.exact = next((wish for parts, wish in members if len(parts) == depth), None)

    @property
    def ending(self) -> str:
        """The entry that stands for this group."""
        return ".".join(self.members[0][0][-self.depth :])

    def split(self) -> list[Group]:
        """Return the groups one part further down; the name that ends here is in none of them."""
        found: dict[str, list[Member]] = {}
        for member in self.members:
            parts = member[0]
            if len(parts) > self.depth:
                found.setdefault(parts[-self.depth - 1], []).append(member)
        return [Group(members, self.depth + 1) for members in found.values()]


def cheapest_cover(members: list[Member], may_exclude: bool = True, limit: int = _NO_LIMIT) -> Cover | None:
    """Return the cheapest entries that treat names, all of one last part, as wished; None where no entries up to `limit` do.

    Cheapest is fewest entries, included and excluded together, then fewest characters.
    """
    return _outside(Group(members, 1), may_exclude, limit) if members else NOTHING


def cheapest_exclusion(members: list[Member], limit: int = _NO_LIMIT) -> Cover | None:
    """Return the cheapest entries to exclude when every name, all of one last part, is taken one by one already."""
    return _inside(Group(members, 1), True, limit) if members else NOTHING


def _outside(group: Group, may_exclude: bool, limit: int) -> Cover | None:
    """Cover a group that no entry above includes."""
    if not group.wanted:
        return NOTHING
    if limit < 1:
        return None
    here: Cover | None = None
    if group.exact is not Wish.EITHER:
        within = _inside(group, may_exclude, limit - 1)
        here = None if within is None else Cover((group.ending,)).plus(within)
        if within is NOTHING:
            return here
    if group.exact is Wish.IN:
        return here
    limit = limit if here is None else min(limit, here.cost.entries)
    below = _together(group, limit, lambda part, left: _outside(part, may_exclude, left))
    return min((cover for cover in (here, below) if cover is not None), key=lambda cover: cover.cost, default=None)


def _inside(group: Group, may_exclude: bool, limit: int) -> Cover | None:
    """Cover a group that is included already: shut out what is not wanted."""
    if not group.unwanted:
        return NOTHING
    if not may_exclude or limit < 1:
        return None
    if not group.wanted:
        return Cover(exclude=(group.ending,))
    if group.exact is Wish.OUT:
        return None
    return _together(group, limit, lambda part, left: _inside(part, may_exclude, left))


def _together(group: Group, limit: int, cover_part: Callable[[Group, int], Cover | None]) -> Cover | None:
    """Cover the parts of a group one by one, giving up once they take more than `limit` entries."""
    include: list[str] = []
    exclude: list[str] = []
    for part in group.split():
        cover = cover_part(part, limit - len(include) - len(exclude))
        if cover is None:
            return None
        include.extend(cover.include)
        exclude.extend(cover.exclude)
    return Cover(tuple(include), tuple(exclude)) if include or exclude else NOTHING


def uniform_endings(values: Mapping[str, Hashable], usual: Hashable) -> dict[str, str]:
    """Return the fewest endings, none within another, that tell `values` apart: `{ending: one of its names}`.

    Names of the `usual` value are in none of them. An ending that has to be a complete name, because longer names end in
    it and have another value, starts with "^".
    """
    by_leaf: dict[str, list[list[str]]] = {}
    for name in values:
        by_leaf.setdefault(name.rpartition(".")[2], []).append(name.split("."))
    found: dict[str, str] = {}
    for members in by_leaf.values():
        _split_by_value(members, 1, values, usual, found)
    return found


def _split_by_value(members: list[list[str]], depth: int, values: Mapping[str, Hashable], usual: Hashable, found: dict[str, str]) -> None:
    names = [".".join(parts) for parts in members]
    present = {values[name] for name in names}
    if len(present) == 1:
        if present != {usual}:
            found[".".join(members[0][-depth:])] = names[0]
        return
    below: dict[str, list[list[str]]] = {}
    for parts, name in zip(members, names, strict=True):
        if len(parts) > depth:
            below.setdefault(parts[-depth - 1], []).append(parts)
        elif values[name] != usual:
            found[f"^{name}"] = name
    for group in below.values():
        _split_by_value(group, depth + 1, values, usual, found)
