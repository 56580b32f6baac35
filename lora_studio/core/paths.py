"""Where things live on this machine. One environment variable moves all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def adapters(self) -> Path:
        """Adapters that were imported, beside the runs."""
        return self.runs.parent / "adapters"


def studio_paths() -> StudioPaths:
    """Return the studio's folders: below `LORA_STUDIO_HOME` where set, else the system's usual places."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        root = Path(home).expanduser().resolve()
        return StudioPaths(root / "settings", root / "cache", root / "runs")
    try:
        import platformdirs
    except ImportError:  # a machine that only trains may lack it
        return _by_xdg()
    dirs = platformdirs.PlatformDirs("lora-studio", appauthor=False)
    return StudioPaths(Path(dirs.user_config_dir), Path(dirs.user_cache_dir), Path(dirs.user_data_dir) / "runs")


def _by_xdg() -> StudioPaths:
    """Return the places that platformdirs gives on Linux. Source: XDG Base Directory Specification 0.8."""

    def below(variable: str, usual: str) -> Path:
        return Path(os.environ.get(variable) or Path.home() / usual) / "lora-studio"

    return StudioPaths(
        below("XDG_CONFIG_HOME", ".config"), below("XDG_CACHE_HOME", ".cache"), below("XDG_DATA_HOME", ".local/share") / "runs"
    )


def resources_folder() -> Path:
    """Return the folder of icons, theme, fonts and starter data: in the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "resources"
    return inside if inside.is_dir() else package.parent / "resources"
