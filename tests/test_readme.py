"""What the README tells a person to type is understood by the program it describes."""

import re
import shlex
from pathlib import Path

import pytest

from lora_studio.cli.parser import build_parser
from lora_studio.core.config_files import parse_config

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
COMMANDS = [line for _language, block in BLOCKS for line in block.splitlines() if line.startswith(".venv/bin/lora-studio")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    assert build_parser(only=words[0]).parse_args(words).command == words[0]


def test_the_run_of_the_readme_is_a_valid_config() -> None:
    text = next(block for language, block in BLOCKS if language == "yaml")
    assert parse_config(text).adapter.target_modules == ("q_proj", "v_proj")


PAGES = [README, README.parent / "CONTRIBUTING.md", *sorted((README.parent / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_a_page_points_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
