"""Module trees made before, by the hash of the config they came from: read at once, without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lora_studio.core.files import write_atomically
from lora_studio.core.modules import TREE_VERSION, ModuleTree
from lora_studio.core.paths import resources_folder, studio_paths

INSPECTOR_VERSION = 1  # raise it when `inspect` would say something else of the same config


def config_hash(folder: Path) -> str:
    """Give the SHA-256 of a model's config.json, which decides its tree, as 64 hexadecimal digits."""
    return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def cached_tree(folder: Path | None) -> ModuleTree | None:
    """Give the module tree of a model's folder if it was made before, or ships with the studio; None otherwise."""
    if folder is None or not (folder / "config.json").is_file():
        return None
    digest = config_hash(folder)
    return _read(_tree_file(digest)) or _read(resources_folder() / "starter" / f"tree-{digest[:16]}.json")


def starter_tree() -> ModuleTree | None:
    """Give the starter's module tree, which ships with the studio, before the starter is converted."""
    return _read(resources_folder() / "starter" / "tree.json")


def keep_tree(folder: Path, tree: ModuleTree) -> None:
    """Put a model's module tree into the cache."""
    write_atomically(_tree_file(config_hash(folder)), tree.to_json())


def _tree_file(digest: str) -> Path:
    return studio_paths().cache / "trees" / f"{digest}-{TREE_VERSION}.{INSPECTOR_VERSION}.json"


def _read(file: Path) -> ModuleTree | None:
    try:
        return ModuleTree.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
