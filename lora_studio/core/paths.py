"""Where things live on this machine. One environment variable moves all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

HOME_VARIABLE = "LORA_STUDIO_HOME"


@dataclass(frozen=True)
class StudioPaths:
    """The folders the studio owns. None is created before something is written to it.

    Attributes:
        settings: Draft, window layout, recent files.
        cache: Converted models, module trees, prepared data; all of it can be made again.
        runs: Run folders; a person's work, never cleaned by us.
    """

    settings: Path
    cache: Path
    runs: Path


def studio_paths() -> StudioPaths:
    """Give the studio's folders: below `LORA_STUDIO_HOME` where set, else the system's usual places."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        root = Path(home).expanduser().resolve()
        return StudioPaths(root / "settings", root / "cache", root / "runs")
    dirs = platformdirs.PlatformDirs("lora-studio", appauthor=False)
    return StudioPaths(Path(dirs.user_config_dir), Path(dirs.user_cache_dir), Path(dirs.user_data_dir) / "runs")


def resources_folder() -> Path:
    """Give the folder of icons, theme, fonts and starter data: in the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "resources"
    return inside if inside.is_dir() else package.parent / "resources"
