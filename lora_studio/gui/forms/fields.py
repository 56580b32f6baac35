"""What a field's declaration in `RunConfig` says of its editor."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from lora_studio.core.config import field_info
from lora_studio.gui.platform.text import tr

EditorKind = Literal["int", "float", "choice", "bool", "text", "names", "mapping"]
Number = int | float


@dataclass(frozen=True)
class FieldSpec:
    """One field of the config as its editor needs it.

    Attributes:
        path: Dotted path, such as `adapter.r`.
        title: What stands beside the editor.
        description: What it does and its usual range.
        kind: Which editor it gets.
        choices: The values to choose from, of a `choice`.
        minimum: Smallest value; None for no bound.
        maximum: Largest value; None for no bound.
        open_minimum: Whether `minimum` itself is too small.
        open_maximum: Whether `maximum` itself is too large.
        usual: The usual range, where one is declared.
        optional: Whether it may be left empty.
        whole_too: Whether a `float` is kept as a whole number where it is one.
    """

    path: str
    title: str
    description: str
    kind: EditorKind
    choices: tuple[object, ...] = ()
    minimum: Number | None = None
    maximum: Number | None = None
    open_minimum: bool = False
    open_maximum: bool = False
    usual: tuple[Number, Number] | None = None
    optional: bool = False
    whole_too: bool = False

    @classmethod
    def of(cls, path: str) -> FieldSpec:
        """Read a field's declaration.

        Raises:
            KeyError: The path names no field.
        """
        info = field_info(path)
        kind, choices, optional = _kind_of(info.annotation)
        extra: dict[str, Any] = info.json_schema_extra or {}
        usual = extra.get("usual")
        bounds = _bounds_of(info.metadata)
        return cls(
            path,
            tr(info.title or path),
            tr(info.description or ""),
            kind,
            choices,
            optional=optional,
            whole_too=kind == "float" and int in get_args(info.annotation),
            usual=(usual[0], usual[1]) if usual else None,
            **bounds,
        )

    @property
    def tooltip(self) -> str:
        """What it does, its usual range, and what it may be."""
        name = self.path.rpartition(".")[2]
        return "\n".join(part for part in (self.description, f"{name}{self._range}") if part)

    @property
    def _range(self) -> str:
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            above, below = "> " if self.open_minimum else "", "< " if self.open_maximum else ""
            return tr(": {low} to {high}", low=f"{above}{low:,}", high=f"{below}{high:,}")
        if low is not None:
            return tr(": more than {low}", low=low) if self.open_minimum else tr(": {low} or more", low=low)
        return ""


def _kind_of(annotation: Any) -> tuple[EditorKind, tuple[object, ...], bool]:
    """Tell the editor from a type: its kind, the choices, and whether None is allowed."""
    if get_origin(annotation) is Literal:
        return "choice", get_args(annotation), False
    if get_origin(annotation) in (UnionType, Union):
        members = [member for member in get_args(annotation) if member is not NoneType]
        optional = len(members) < len(get_args(annotation))
        if set(members) == {int, float}:
            return "float", (), optional
        kind, choices, _ = _kind_of(members[0])
        return kind, choices, optional
    if get_origin(annotation) is dict:
        return "mapping", (), False
    kinds: dict[Any, EditorKind] = {bool: "bool", int: "int", float: "float", str: "text"}
    return kinds.get(annotation, "names"), (), False


def _bounds_of(metadata: list[Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for entry in metadata:
        match entry:
            case Ge():
                bounds |= {"minimum": entry.ge}
            case Gt():
                bounds |= {"minimum": entry.gt, "open_minimum": True}
            case Le():
                bounds |= {"maximum": entry.le}
            case Lt():
                bounds |= {"maximum": entry.lt, "open_maximum": True}
            case _:
                pass  # pattern and length are for the config to judge
    return bounds
