"""Whether a chat template writes a turn without a look at those behind it. Light: jinja2 alone.

Of a template that goes forward only, what it writes for the first turns of a conversation is what it writes for them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jinja2 import nodes

_TURNS = "messages"
_BEHIND = ("first", "index", "index0", "depth", "depth0", "previtem", "changed", "cycle")


def goes_forward(template: nodes.Template) -> bool:
    """Return whether a template certainly goes through the turns once and uses nothing else of them than the first.

    Anything that is not known to be harmless counts as a look ahead: a template's `loop.last`, its `messages[-1]`, a loop before
    the one that writes.
    """
    aliases = {_TURNS}
    seen: set[int] = set()
    for assign in template.find_all(nodes.Assign):
        name = _sequence(assign.node, aliases)
        if name is not None and isinstance(assign.target, nodes.Name):
            aliases.add(assign.target.name)
            seen |= {id(name), id(assign.target)}
    loops = [(loop, name) for loop in _outermost(template.body) if (name := _sequence(loop.iter, aliases)) is not None]
    seen |= {id(name) for _, name in loops}
    seen |= {id(item.node) for item in template.find_all(nodes.Getitem) if isinstance(item.arg, nodes.Const) and item.arg.value == 0}
    seen |= {id(field.node) for field in template.find_all(nodes.Getattr) if _is_name(field.node, {"loop"}) and field.attr in _BEHIND}
    known = all(id(name) in seen for name in template.find_all(nodes.Name) if name.name in {*aliases, "loop"})
    return known and len(loops) == 1 and not loops[0][0].recursive


def _outermost(body: Iterable[nodes.Node]) -> Iterator[nodes.For]:
    """Return the loops that stand in nothing but conditions."""
    for node in body:
        if isinstance(node, nodes.For):
            yield node
        elif isinstance(node, nodes.If):
            yield from _outermost([*node.body, *node.elif_, *node.else_])


def _sequence(node: nodes.Node, aliases: set[str]) -> nodes.Name | None:
    """Return the name in `messages`, `messages[1:]` or another name for either."""
    if isinstance(node, nodes.Getitem) and _is_name(node.node, {_TURNS}) and isinstance(cut := node.arg, nodes.Slice):
        from_second = isinstance(cut.start, nodes.Const) and cut.start.value == 1 and cut.stop is None and cut.step is None
        return _sequence(node.node, aliases) if from_second else None
    return node if isinstance(node, nodes.Name) and node.name in aliases else None


def _is_name(node: nodes.Node, names: set[str]) -> bool:
    return isinstance(node, nodes.Name) and node.name in names
