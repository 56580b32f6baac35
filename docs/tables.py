"""Write the pages of settings and shortcuts from the code: `python -m docs.tables`. A test fails where they are older than it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lora_studio.core.config import RunConfig
from lora_studio.gui.shell.actions import ACTIONS, MENUS

FOLDER = Path(__file__).parent
_SIGNS = {"Ge": "≥ {0.ge:g}", "Gt": "> {0.gt:g}", "Le": "≤ {0.le:g}", "Lt": "< {0.lt:g}"}


def settings_page() -> str:
    """Return a table for each section of a config: what may stand there, what stands there by itself, what it does."""
    lines = [
        "# Settings",
        "",
        "Every key of a config, as a run's `run.yaml` and the window's YAML view have it. Written by `python -m docs.tables`.",
    ]
    for section, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += ["", f"## {section}", "", "| setting | values | default | |", "|---|---|---|---|"]
            lines += [_setting(f"{section}.{name}", inner) for name, inner in field.annotation.model_fields.items()]
    return "\n".join(lines) + "\n"


def shortcuts_page() -> str:
    """Return a table for each menu: its actions and their keys."""
    lines = [
        "# Shortcuts",
        "",
        "Every action of the window; the command palette (Ctrl+K) finds each by its name. Written by `python -m docs.tables`.",
    ]
    for menu in MENUS:
        lines += ["", f"## {menu}", "", "| action | keys |", "|---|---|"]
        lines += [f"| {action.title.rstrip('…')} | {_keys(action.shortcut)} |" for action in ACTIONS if action.menu == menu]
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "shortcuts.md": shortcuts_page}


def _setting(name: str, field: FieldInfo) -> str:
    title = "" if field.title in (None, name.rpartition(".")[2]) else f"**{field.title}.** "
    cells = (
        f"`{name}`",
        ", ".join(_values(field)),
        _shown(field.get_default(call_default_factory=True)),
        f"{title}{field.description or ''}",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(field: FieldInfo) -> Iterator[str]:
    """Say what a setting takes: its words, or its kind and bounds."""
    words = list(_words(field.annotation))
    if words:
        yield " ".join(f"`{word}`" for word in words)
    else:
        yield _kind(field.annotation)
    yield from (_SIGNS[type(bound).__name__].format(bound) for bound in field.metadata if type(bound).__name__ in _SIGNS)


def _words(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (_plain(word) for word in get_args(annotation))


def _kind(annotation: Any) -> str:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    kind = get_origin(annotation) or annotation
    if kind in (dict, tuple):
        return "values by name" if kind is dict else "a list"
    if {int, float} <= set(parts):
        return "a number"
    if parts and kind is not Literal:
        return " or ".join(dict.fromkeys(" ".join(f"`{word}`" for word in _words(part)) or _kind(part) for part in parts))
    return {bool: "`true` or `false`", int: "a whole number", float: "a number", str: "text"}.get(kind, "a list")


def _shown(value: Any) -> str:
    if value is None or value in ((), "", {}):
        return "none"
    return f"`{', '.join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)}`"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _keys(shortcut: str) -> str:
    return f"`{shortcut}`" if shortcut else ""


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
