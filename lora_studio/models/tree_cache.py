"""Module trees made before, by the hash of the config they came from: read at once, without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lora_studio.core.files import write_atomically
from lora_studio.core.modules import TREE_VERSION, ModuleTree
from lora_studio.core.paths import resources_folder, studio_paths
from lora_studio.models.spellings import OLDER_ROPE_NAMES

INSPECTOR_VERSION = 3  # raise it when `inspect` would say something else of the same config
_NO_SHAPE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", *OLDER_ROPE_NAMES)


def config_hash(folder: Path) -> str:
    """Return the SHA-256 of what in a model's config.json can decide its tree, as 64 hexadecimal digits."""
    raw = (folder / "config.json").read_bytes()
    try:
        config: Any = json.loads(raw)
    except ValueError:
        return hashlib.sha256(raw).hexdigest()  # whoever obeys the file says what is wrong with it
    if isinstance(config, dict):
        raw = json.dumps({key: value for key, value in config.items() if key not in _NO_SHAPE}, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def cached_tree(folder: Path | None) -> ModuleTree | None:
    """Return the module tree of a model's folder if it was made before, or ships with the studio; None otherwise."""
    if folder is None or not (folder / "config.json").is_file():
        return None
    digest = config_hash(folder)
    return _read(_tree_file(digest), digest) or _read(starter_file(), digest)


def starter_tree() -> ModuleTree | None:
    """Return the starter's module tree, which ships with the studio, before the starter is converted."""
    return _read(starter_file())


def keep_tree(folder: Path, tree: ModuleTree) -> None:
    """Put a model's module tree into the cache."""
    digest = config_hash(folder)
    write_tree(_tree_file(digest), digest, tree)


def write_tree(file: Path, digest: str, tree: ModuleTree) -> None:
    """Write a tree with the hash of the config it came from."""
    write_atomically(file, f'{{"config_hash":"{digest}","tree":{tree.to_json()}}}\n')


def starter_file() -> Path:
    """Return the file of the starter's tree."""
    return resources_folder() / "starter" / "tree.json"


def _tree_file(digest: str) -> Path:
    return studio_paths().cache / "trees" / f"{digest}-{TREE_VERSION}.{INSPECTOR_VERSION}.json"


def _read(file: Path, digest: str = "") -> ModuleTree | None:
    """Read a kept tree; None where there is none, an older one, or one of another config than `digest`."""
    try:
        kept: Any = json.loads(file.read_text(encoding="utf-8"))
        if digest and kept["config_hash"] != digest:
            return None
        return ModuleTree.from_json(json.dumps(kept["tree"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
