"""Where a base model comes from: the starter, a folder, a GGUF file, the Hub's cache, the Hub. No torch, no network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_studio.core.errors import InputError
from lora_studio.core.settings import STARTER_MODEL
from lora_studio.hub.cache import Snapshot, cached_snapshot, cached_snapshots
from lora_studio.models.check import FIELD, check_folder, read_model_config
from lora_studio.models.converted import ConvertedFrom, converted_folder, converted_root, earlier_folder, starter_file
from lora_studio.models.errors import IncompleteModelError
from lora_studio.models.gguf_header import read_gguf

STARTER = "starter"
SourceKind = Literal["starter", "folder", "gguf", "hub_cache", "hub"]
Needs = Literal["", "convert", "download", "weights"]
_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./-]{0,200}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")


@dataclass(frozen=True)
class ModelSource:
    """A base model by where it comes from.

    Attributes:
        kind: Which of the five sources.
        name: What to write in a config: a Hub id, a folder or a file.
        path: Folder with config.json and weights; None before a conversion or download. With `needs` "weights" it
            holds a config alone, enough for `inspect` and `plan`.
        file: The GGUF file, where it comes from one.
        revision: The branch, tag or commit asked for, of a Hub model.
        commit: The commit that `path` is, of a Hub model in the cache.
        ready: Whether `path` can be loaded now.
        needs: What `prepare` has to do first; "weights" cannot be helped.
    """

    kind: SourceKind
    name: str
    path: Path | None = None
    file: Path | None = None
    revision: str | None = None
    commit: str = ""
    needs: Needs = ""

    @property
    def ready(self) -> bool:
        """Whether `path` can be loaded now."""
        return self.path is not None and not self.needs


def find_model(name_or_path: str, revision: str | None = None) -> ModelSource:
    """Find a base model by what a person or a config calls it.

    A folder or file that exists comes first, then the starter (`starter`, or its Hub id where the Hub's cache has
    none), then the Hub's cache, then the Hub itself.

    Args:
        name_or_path: A folder, a GGUF file, `starter` or a Hub id.
        revision: Branch, tag or commit of a Hub model; None for its main branch.

    Raises:
        InputError: There is no such folder or file, it is no model, or it is damaged or refused.
    """
    name = name_or_path.strip()
    if not name:
        raise InputError("No base model is named.", f"Give a folder, a GGUF file or a Hub id such as {STARTER_MODEL}.", FIELD)
    path = Path(name).expanduser()
    if _exists(path):
        return _local(path, name)
    if _is_meant_as_path(name):
        raise InputError(f"There is no folder or file {path}.", f"Check the path, or give a Hub id such as {STARTER_MODEL}.", FIELD)
    if name == STARTER:
        return _starter() or find_model(STARTER_MODEL)
    return _hub(name, revision)


def local_models() -> list[ModelSource]:
    """List the base models on this machine: the starter, the Hub's cache, converted GGUF files. Damaged ones are left out."""
    found: list[ModelSource] = []
    starter = _starter()
    if starter:
        found.append(starter)
    found += [ModelSource("hub_cache", snapshot.repo_id, snapshot.path, commit=snapshot.commit) for snapshot in _usable_snapshots()]
    found += _converted_models()
    seen: set[str] = set()
    return [source for source in found if not (source.name in seen or seen.add(source.name))]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a null byte in it
        return False


def _is_meant_as_path(name: str) -> bool:
    return name.endswith(".gguf") or not _HUB_ID.fullmatch(name) or os.path.isabs(name) or ".." in name  # noqa: PTH117


def _local(path: Path, name: str) -> ModelSource:
    if path.is_file():
        return _gguf(path.absolute(), name)
    has_weights = check_folder(path)
    return ModelSource("folder", name, path.absolute(), needs="" if has_weights else "weights")


def _gguf(file: Path, name: str) -> ModelSource:
    if file.suffix.lower() != ".gguf":
        raise InputError(f"{file} is a file, not a model.", "Choose the folder that holds config.json, or a .gguf file.", FIELD)
    read_gguf(file)
    folder = converted_folder(file)
    if folder.is_dir():
        return ModelSource("gguf", name, folder, file)
    return ModelSource("gguf", name, None, file, needs="convert")


def _starter() -> ModelSource | None:
    file = starter_file()
    if file is None:
        return None
    folder = converted_folder(file)
    if folder.is_dir():
        return ModelSource("starter", STARTER_MODEL, folder, file)
    return ModelSource("starter", STARTER_MODEL, None, file, needs="convert")


def _hub(name: str, revision: str | None) -> ModelSource:
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"{revision!r} is no revision.", "Give a branch, a tag or a commit, or leave it empty.", "model.revision")
    snapshot = cached_snapshot(name, revision)
    if snapshot is not None and _is_whole(snapshot):
        return ModelSource("hub_cache", name, snapshot.path, revision=revision, commit=snapshot.commit)
    if name == STARTER_MODEL and revision is None:
        starter = _starter()
        if starter is not None:
            return starter
    return ModelSource("hub", name, None, revision=revision, needs="download")


def _is_whole(snapshot: Snapshot) -> bool:
    """Return whether a snapshot can be loaded; one that a download left in part counts as not there."""
    if not (snapshot.path / "config.json").is_file():
        return False
    try:
        return check_folder(snapshot.path)
    except IncompleteModelError:
        return False


def _usable_snapshots() -> Iterator[Snapshot]:
    for snapshot in cached_snapshots():
        try:
            if _is_whole(snapshot) and _generates_text(snapshot.path):
                yield snapshot
        except InputError:
            continue  # a list shows what can be picked; naming the model itself says what is wrong with it


def _generates_text(folder: Path) -> bool:
    architectures: list[str] = read_model_config(folder).get("architectures") or ["CausalLM"]
    return any(word in architectures[0] for word in ("CausalLM", "LMHead", "ConditionalGeneration"))


def _converted_models() -> Iterator[ModelSource]:
    starter = starter_file()
    for folder in sorted(converted_root().glob("[!.]*")):
        source = ConvertedFrom.read(folder)
        if source is None:
            continue
        file = Path(source.file)
        if not file.is_file() or file == starter:
            continue
        if converted_folder(file) == folder:
            yield ModelSource("gguf", source.file, folder, file)
        elif earlier_folder(file) == folder:  # brought up to date when it is chosen
            yield ModelSource("gguf", source.file, None, file, needs="convert")
