"""Fixtures of the exports' tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def converter(converter_folder: Path, studio_home: Path) -> Path:
    """Let this test's own home have the converter."""
    from lora_studio.export.gguf.llama_cpp import fetched_folder

    place = fetched_folder()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(converter_folder, target_is_directory=True)
    return place
