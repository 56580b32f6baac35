"""Which files of a Hub data set are which configuration and split, by its card or by their names.

After https://huggingface.co/docs/hub/datasets-data-files-configuration and datasets-file-names-and-splits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lora_studio.core.errors import InputError
from lora_studio.data.readers.encodings import FIELD
from lora_studio.data.readers.read import SUFFIXES, is_beside, kind_of

_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_SHARD = re.compile(r"([\w.]+?)-\d{5}-of-\d{5}")
_TEXTS = (".txt", ".text", ".md")


def choose_files(names: Sequence[str], card: str, config: str, split: str, repo: str) -> list[str]:
    """Choose the files of one configuration and split, in the order of their names.

    Args:
        names: All files of the data set.
        card: Its README.md; empty when it has none.
        config: The configuration; empty for its default.
        split: The split.
        repo: What messages call the data set.

    Raises:
        InputError: There is no such configuration or split, or nothing that can be read.
    """
    readable = [name for name in sorted(names) if kind_of(Path(name)) and not _is_aside(name)]
    configs = _configs_of(card)
    if configs:
        splits = _declared_splits(_config_named(configs, config, repo), readable)
    else:
        splits = _splits_by_name(_below(readable, config, repo))
    if not any(splits.values()):
        raise InputError(f"{repo} holds no file that can be read.", f"Known are {', '.join(SUFFIXES)}.", FIELD)
    if split not in splits:
        raise InputError(f"{repo} has no split {split!r}.", f"It has {', '.join(splits)}: add ?split=… to its name.", FIELD)
    return _of_one_kind(splits[split])


def _is_aside(name: str) -> bool:
    return is_beside(PurePosixPath(name).name) or any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _configs_of(card: str) -> list[dict[str, Any]]:
    """Return the configurations a card declares in the YAML at its head."""
    head = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    try:
        tree = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):  # an impossible date, brackets without end
        return []
    configs = tree.get("configs") if isinstance(tree, dict) else None
    return [
        config
        for config in (configs if isinstance(configs, list) else [])
        if isinstance(config, dict) and ("data_files" in config or "data_dir" in config)
    ]


def _config_named(configs: list[dict[str, Any]], wanted: str, repo: str) -> dict[str, Any]:
    names = [str(config.get("config_name", "default")) for config in configs]
    if not wanted:
        wanted = next((name for name, config in zip(names, configs) if config.get("default") is True), "")
        wanted = wanted or ("default" if "default" in names or len(names) > 1 else names[0])
    if wanted not in names:
        told = f"has no configuration {wanted!r}" if wanted != "default" else "has several configurations and none is the default"
        raise InputError(f"{repo} {told}.", f"It has {', '.join(names)}: add ?config=… to its name.", FIELD)
    return configs[names.index(wanted)]


def _declared_splits(config: dict[str, Any], names: list[str]) -> dict[str, list[str]]:
    """Return the files of each split as a configuration's patterns say."""
    folder = str(config.get("data_dir") or "").strip("/")
    within = [name for name in names if not folder or name.startswith(f"{folder}/")]
    declared: Any = config.get("data_files")
    if declared is None:
        return _splits_by_name(within)
    if isinstance(declared, dict):
        declared = [{"split": split, "path": path} for split, path in declared.items()]
    if not isinstance(declared, list) or not all(isinstance(entry, dict) for entry in declared):
        declared = [{"split": "train", "path": declared}]
    return {str(entry.get("split", "train")): _matching(entry.get("path", ()), within, folder) for entry in declared}


def _matching(patterns: Any, names: list[str], folder: str) -> list[str]:
    wanted: list[Any] = patterns if isinstance(patterns, list) else [patterns]
    rules = [_as_regex(f"{folder}/{pattern}" if folder else pattern) for pattern in wanted if isinstance(pattern, str)]
    return [name for name in names if any(rule.fullmatch(name) for rule in rules)]


def _as_regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob in which ** crosses folders and * does not.

    Raises:
        InputError: It is none.
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./"))
    stars = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(stars.get(part) or (part.replace("[!", "[^") if part.startswith("[") else re.escape(part)) for part in parts)
    try:
        return re.compile(regex)
    except re.error as error:
        message = f"The data set's card names its files by a pattern that is none: {pattern!r} ({error})."
        raise InputError(message, "Download the data set and name its files in data.train.", FIELD) from error


def _below(names: list[str], config: str, repo: str) -> list[str]:
    """Return the files below a folder that is named as the configuration."""
    if not config:
        return names
    found = [name for name in names if config in PurePosixPath(name).parts[:-1]]
    if not found:
        folders = sorted({PurePosixPath(name).parts[0] for name in names if "/" in name})
        raise InputError(f"{repo} has no configuration {config!r}.", f"Its folders are {', '.join(folders) or 'none'}.", FIELD)
    return found


def _splits_by_name(names: Iterable[str]) -> dict[str, list[str]]:
    """Tell splits by the names of files and folders; files that say nothing are training data if no file says anything."""
    found: dict[str, list[str]] = {}
    silent: list[str] = []
    for name in names:
        split = _split_in(name)
        (found.setdefault(split, []) if split else silent).append(name)
    return found or {"train": silent}


def _split_in(name: str) -> str:
    path = PurePosixPath(name)
    if shard := _SHARD.match(path.name):
        return _SPLITS.get(shard[1], shard[1])
    for part in (path.name.split(".")[0], *reversed(path.parts[:-1])):
        for word in re.split(r"[-_ ]", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _of_one_kind(names: list[str]) -> list[str]:
    """Leave the commonest kind: data sets come in copies of several kinds, and text beside rows is no row."""
    kinds = Counter(kind_of(Path(name)) for name in names)
    best = max(kinds, key=lambda kind: (kind not in _TEXTS, kinds[kind], kind == ".parquet"))
    return [name for name in names if kind_of(Path(name)) == best]
