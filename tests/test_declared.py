"""What the code imports is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from lora_studio.cli.commands.doctor import REQUIRED

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "PySide6": "PySide6-Essentials",
    "yaml": "PyYAML",
    "pynvml": "nvidia-ml-py",
    "charset_normalizer": "charset-normalizer",
    "annotated_types": "annotated-types",
}
NOT_OURS = {"lora_studio", "convert_hf_to_gguf"}
"""Ourselves, and llama.cpp's converter, which is fetched as a file."""
BY_NAME_ALONE = {"accelerate"}
"""What transformers and peft import, at releases that we ask for."""


def imported() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "lora_studio").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return {PACKAGES.get(name, name) for name in found - set(sys.stdlib_module_names) - NOT_OURS}


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {Requirement(line).name for line in lines}


def test_every_imported_package_is_declared() -> None:
    assert imported() - declared("quantization", "gguf-check") == set()


def test_every_declared_package_is_imported() -> None:
    assert declared() - imported() - BY_NAME_ALONE == set()


def test_doctor_asks_for_declared_packages_alone() -> None:
    assert set(REQUIRED) <= declared()
