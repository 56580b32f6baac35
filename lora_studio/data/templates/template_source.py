"""Which chat template: the model's own, one that ships with the studio, or a text in the settings."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_studio.core.errors import InputError
from lora_studio.core.paths import resources_folder

FIELD = "data.chat_template"
ADAPTERS_TEMPLATE = "chat_template.jinja"
MODEL_FIELD = "model.name_or_path"
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_TURN_MARKS = re.compile(r"<\|\w+\|>|<\w+_of_turn>")
Origin = Literal["model", "studio", "settings", "none"]


@dataclass(frozen=True)
class TemplateSource:
    """A chat template and where it came from.

    Attributes:
        text: The Jinja source; None where there is none.
        origin: model, studio (it ships with us), settings (typed by the person), or none.
        name: Of one that ships with us; else empty.
    """

    text: str | None
    origin: Origin
    name: str = ""

    @property
    def described(self) -> str:
        """What a sentence calls it."""
        return {
            "model": "the base model's chat template",
            "studio": f"the chat template {self.name}",
            "settings": "the chat template of the settings",
            "none": "no chat template",
        }[self.origin]

    @property
    def field(self) -> str:
        """The setting that answers for it."""
        return MODEL_FIELD if self.origin == "model" else FIELD

    @property
    def way_out(self) -> str:
        """What helps when it is of no use."""
        if self.origin == "model":
            return f"Choose another model, or set data.chat_template to one of {', '.join(shipped_templates())}."
        return f"Mend it, or set data.chat_template to one of {', '.join(shipped_templates())}."


def shipped_templates() -> tuple[str, ...]:
    """Name the chat templates that ship with the studio."""
    return tuple(sorted(path.stem for path in (resources_folder() / "templates").glob("*.jinja")))


def shipped_template(name: str) -> str:
    """Return the Jinja source of a template that ships with the studio.

    Raises:
        InputError: There is none of this name.
    """
    if name not in shipped_templates():
        raise InputError(
            f"No chat template is called {name!r}.", f"Name one of {', '.join(shipped_templates())}, or give a Jinja template.", FIELD
        )
    return (resources_folder() / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def refuse_foreign_marks(source: TemplateSource, tokens: Collection[str]) -> None:
    """Raise `InputError` for a shipped template that marks turns with tokens which the tokenizer would take for plain text.

    Args:
        source: The template.
        tokens: The tokens that the tokenizer takes out of a text whole.
    """
    if source.origin != "studio" or not (foreign := _foreign_marks(source.name, tokens)):
        return
    fitting = ", ".join(name for name in shipped_templates() if not _foreign_marks(name, tokens))
    raise InputError(
        f"The base model's tokenizer has no {', '.join(foreign)}: the chat template {source.name} marks turns with them.",
        f"Set data.chat_template to one that fits this model ({fitting}), or choose a model with these tokens.",
        FIELD,
    )


def _foreign_marks(name: str, tokens: Collection[str]) -> list[str]:
    return sorted(set(_TURN_MARKS.findall(_COMMENT.sub("", shipped_template(name)))) - set(tokens))


def adapters_template(folder: Path) -> str | None:
    """Return the chat template that lies in an adapter's folder: the one it was trained with, its variables set; None where none does."""
    try:
        text = (folder / ADAPTERS_TEMPLATE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return text if is_jinja(text) else None


def is_jinja(text: str) -> bool:
    """Tell a template from a template's name."""
    return "{{" in text or "{%" in text


def with_variables(template: str, variables: Mapping[str, Any]) -> str:
    """Return a template whose variables have these values where whoever renders it says nothing else.

    Written as plain Jinja before the template, so that every program that renders it does the same.
    """
    lines = [f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}" for name, value in variables.items()]
    # A line end behind a tag is taken for the tag's.
    return "".join(lines) + ("\n" if lines and template.startswith("\n") else "") + template


def _literal(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)


def choose_template(setting: str | None, tokenizer: Any) -> TemplateSource:
    """Return the template that `data.chat_template` means: a Jinja text, a shipped one's name, or the tokenizer's own.

    Raises:
        InputError: No shipped template has that name, or the tokenizer has several and none is the default.
    """
    if setting is not None and setting.strip():
        if is_jinja(setting):
            return TemplateSource(setting, "settings")
        return TemplateSource(shipped_template(setting.strip()), "studio", setting.strip())
    if not tokenizer.chat_template:
        return TemplateSource(None, "none")
    try:
        return TemplateSource(str(tokenizer.get_chat_template()), "model")
    except ValueError as error:
        names = ", ".join(tokenizer.chat_template)
        raise InputError(
            f"The base model has several chat templates ({names}) and none is the default.",
            f"Choose another model, or set data.chat_template to one of {', '.join(shipped_templates())}.",
            MODEL_FIELD,
        ) from error
