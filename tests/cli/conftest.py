"""The command line as a person meets it: what it printed where, and what it exited with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_studio.cli.main import main


@dataclass
class Outcome:
    """One command's end."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one JSON document and nothing beside it."""
        return json.loads(self.out)


Command = Callable[..., Outcome]
WriteConfig = Callable[..., Path]


def no_window(arguments: Sequence[str]) -> int:
    raise AssertionError(f"the window was opened with {arguments}")


@pytest.fixture(scope="session", autouse=True)
def transformers_is_quiet() -> None:
    """In a program of its own the command line says so by an environment variable, before transformers is imported."""
    from transformers.utils import logging

    logging.set_verbosity_error()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments], no_window)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def write_config(tmp_path: Path, tiny_model: Callable[[str], Path], chat_rows: Path) -> WriteConfig:
    """Write a run config of a tiny model on a few rows; changes are dotted paths."""

    def write(**changes: Any) -> Path:
        tree: dict[str, Any] = {
            "name": "tiny",
            "model": {"name_or_path": str(tiny_model("llama"))},
            "adapter": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
            "data": {"train": [str(chat_rows)], "max_length": 128},
            "training": {"learning_rate": 0.01, "num_train_epochs": 2, "sample_rows": 1, "sample_max_new_tokens": 2, "device": "cpu"},
        }
        for path, value in changes.items():
            section, _, field = path.partition("__")
            tree.setdefault(section, {})[field] = value
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return file

    return write
