"""What the fields of a `RunConfig` hold: values that are read as people write them, and never change."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from lora_studio.core.variable_lines import read_lines

Value = TypeVar("Value")
_GIVEN_TO_TEMPLATES = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")


class FrozenDict(dict[str, Value]):
    """A dictionary that refuses to change, so that a frozen config is frozen all the way down."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a RunConfig does not change; use replace()")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse  # type: ignore[assignment]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Value]]]:
        return type(self), (dict(self),)


def _one_or_many(value: object) -> object:
    """Let a person write a single string where a list is meant."""
    return [value] if isinstance(value, str) else value


def switch(value: object) -> object:
    """Read gradient_checkpointing as older files have it, and as YAML reads a bare `off`: a truth value."""
    return ("full" if value else "off") if isinstance(value, bool) else value


def _written_variables(value: object) -> object:
    """Read `name=value`, or several of these, as lines of a form hold them."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    return read_lines("\n".join(map(str, cast("list[object]", parts))))


def _template_variables(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse names that whoever renders a chat template gives it, or that no template can use."""
    for name in values:
        if not name.isidentifier() or name.startswith("_") or name in _GIVEN_TO_TEMPLATES:
            raise ValueError(f"{name!r} is no variable of a chat template's own")
    return values


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
RankPattern = Annotated[dict[str, Annotated[int, Field(ge=1, le=65536)]], AfterValidator(FrozenDict)]
ColumnNames = Annotated[dict[str, str], AfterValidator(FrozenDict)]
TemplateVariables = Annotated[
    dict[str, StrictBool | StrictInt | StrictFloat | str],
    BeforeValidator(_written_variables),
    AfterValidator(_template_variables),
    AfterValidator(FrozenDict),
]
AlphaPattern = Annotated[dict[str, Annotated[int | float, Field(gt=0)]], AfterValidator(FrozenDict)]


class Section(BaseModel):
    """A frozen part of a config that knows its fields and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
