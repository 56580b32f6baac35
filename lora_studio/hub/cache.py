"""The Hub's cache on this machine, read directly: no network, no huggingface_hub.

Layout: `<cache>/models--<owner>--<name>/{refs/<revision>, snapshots/<commit>/…, blobs/<etag>}`.
Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """One commit of a Hub model in the cache."""

    repo_id: str
    commit: str
    path: Path


def hub_cache_folder() -> Path:
    """Return the Hub's cache folder as huggingface_hub finds it: `HF_HUB_CACHE`, else `HF_HOME`/hub, else ~/.cache."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.path.expandvars(os.environ[variable])).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    system = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(system).expanduser() / "huggingface" / "hub"


def repo_folder(repo_id: str) -> Path:
    """Return the cache folder of a Hub model, there or not."""
    return hub_cache_folder() / ("models--" + repo_id.replace("/", "--"))


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a whole commit hash."""
    return bool(revision and _COMMIT.fullmatch(revision))


def cached_snapshot(repo_id: str, revision: str | None = None) -> Snapshot | None:
    """Return the snapshot of a Hub model that the cache has for a revision, or None."""
    folder = repo_folder(repo_id)
    commit = revision if is_commit(revision) else _commit_of(folder, revision or DEFAULT_REVISION)
    if commit is None:
        return None
    path = folder / "snapshots" / commit
    return Snapshot(repo_id, commit, path) if path.is_dir() else None


def cached_snapshots() -> Iterator[Snapshot]:
    """Return the current snapshot of each model in the cache, by name."""
    root = hub_cache_folder()
    if not root.is_dir():
        return
    for folder in sorted(root.glob("models--*")):
        repo_id = folder.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = cached_snapshot(repo_id)
        if snapshot is not None:
            yield snapshot


def _commit_of(folder: Path, revision: str) -> str | None:
    """Read which commit a branch or tag named when it was last asked for."""
    reference = folder / "refs" / revision
    if ".." in Path(revision).parts or not reference.is_file():
        return None
    commit = reference.read_text(encoding="utf-8").strip()
    return commit if is_commit(commit) else None
