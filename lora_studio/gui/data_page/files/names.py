"""What the draft names as its data, and the edits that add to it, take from it and move within it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from lora_studio.core.settings import DataSettings
from lora_studio.data.check import DataCheck, DataFile
from lora_studio.data.readers.files import HUB_SCHEME, Split

Chosen = tuple[Split, str]
_SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class NamedFile:
    """One line of the list of files.

    Attributes:
        split: What its rows are for.
        name: As the settings name it: a file, a folder it lies in, or a Hub data set.
        file: What was found in it; None while it has not been read.
    """

    split: Split
    name: str
    file: DataFile | None = None

    @property
    def title(self) -> str:
        """Its name without the folders before it; within a folder or data set, the way from there."""
        if self.file is None or self.file.path == self.name:
            return self.name if self.name.startswith(HUB_SCHEME) else Path(self.name).name
        inside = self.file.path.removeprefix(self.name).lstrip("/\\")
        return f"{self.name if self.name.startswith(HUB_SCHEME) else Path(self.name).name}/{inside}"


def named_files(settings: DataSettings, check: DataCheck | None) -> list[NamedFile]:
    """Return a line for each file that was read, and one for each name whose files are not known."""
    left = list(check.files) if check else []
    matches: list[NamedFile] = []
    for split in _SPLITS:
        for name in names_of(settings, split):
            files = [file for file in left if file.split == split and _stands_for(name, file.path)]
            left = [file for file in left if file not in files]
            matches += [NamedFile(split, name, file) for file in files] or [NamedFile(split, name)]
    return matches


def names_of(settings: DataSettings, split: Split) -> tuple[str, ...]:
    """Return what the settings name for training or for evaluation."""
    return settings.train if split == "train" else settings.eval


def with_added(settings: DataSettings, names: Iterable[str], split: Split = "train") -> dict[str, object]:
    """Return the edit that names more data; what is named already is left where it is."""
    known = {*settings.train, *settings.eval}
    new = tuple(name for name in dict.fromkeys(names) if name not in known)
    return {f"data.{split}": (*names_of(settings, split), *new)} if new else {}


def with_removed(settings: DataSettings, chosen: Collection[Chosen]) -> dict[str, object]:
    """Return the edit that names these no longer."""
    return {f"data.{split}": tuple(name for name in names_of(settings, split) if (split, name) not in chosen) for split in _SPLITS}


def with_moved(settings: DataSettings, chosen: Collection[Chosen], split: Split) -> dict[str, object]:
    """Return the edit that makes these training or evaluation data."""
    moved = tuple(name for other, name in chosen if other != split)
    rest = with_removed(settings, [(other, name) for other, name in chosen if other != split])
    kept = rest[f"data.{split}"]
    assert isinstance(kept, tuple)
    return {**rest, f"data.{split}": (*kept, *moved)}


def hub_name(text: str) -> str:
    """Complete what a person types for a Hub data set: `owner/name` and a page's address become hf://owner/name."""
    name = text.strip()
    for start in (HUB_SCHEME, "https://huggingface.co/datasets/", "datasets/"):
        name = name.removeprefix(start)
    return f"{HUB_SCHEME}{name.strip('/')}" if name.strip("/") else ""


def _stands_for(name: str, path: str) -> bool:
    return path == name or path.startswith((f"{name.rstrip('/')}/", f"{name}\\", f"{name}@", f"{name}:"))
