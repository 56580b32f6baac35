"""The docs say what the code has: generated tables are those of today, and files that are named are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.tables import FOLDER, PAGES
from lora_studio.core.config import RunConfig
from lora_studio.gui.shell.actions import ACTIONS

ROOT = Path(__file__).parents[1]
_FILE = re.compile(r"`([\w./-]+(?:\.py|\.toml|/))`|`((?:lora_studio|tests|docs|resources)/[\w./-]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_that_of_the_code(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "write it again: python -m docs.tables"


def test_every_setting_and_every_action_has_its_line() -> None:
    settings, shortcuts = PAGES["settings.md"](), PAGES["shortcuts.md"]()
    config = RunConfig().model_dump()
    names = [f"{section}.{name}" for section, values in config.items() if isinstance(values, dict) for name in values]
    assert len(names) > 60
    assert [name for name in names if f"| `{name}` |" not in settings] == []
    assert [action.id for action in ACTIONS if f"| {action.title.rstrip('…')} |" not in shortcuts] == []


@pytest.mark.parametrize("page", sorted(path.name for path in FOLDER.glob("*.md")))
def test_what_a_page_links_to_is_there(page: str) -> None:
    links = _LINK.findall((FOLDER / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (FOLDER / link).exists()] == []


@pytest.mark.parametrize("page", ["recipes.md", "ARCHITECTURE.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    named = {found[1] or found[2] for found in _FILE.finditer((FOLDER / page).read_text(encoding="utf-8"))}
    named = {name for name in named if "/" in name.rstrip("/")}
    assert len(named) > 10
    places = (ROOT, ROOT / "lora_studio")
    assert sorted(name for name in named if not any((place / name).exists() for place in places)) == []
