"""All runs below one folder: new ones made, the others listed."""

from __future__ import annotations

import re
import shutil
import unicodedata
from datetime import datetime
from pathlib import Path

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import config_to_yaml
from lora_studio.core.errors import InputError
from lora_studio.core.files import refuse_existing, write_atomically
from lora_studio.core.run_index import RunIndex
from lora_studio.core.runs import RunFolder, RunSummary

RunSummaries = list[RunSummary]


class RunStore:
    """All runs below one folder.

    Args:
        root: The folder; it is made with the first run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, config: RunConfig, output: Path | None = None) -> RunFolder:
        """Make a new run's folder with its `run.yaml`: below the root, or `output` itself.

        Raises:
            InputError: `output` exists and holds something, or the folder cannot be written.
        """
        try:
            path = self._new_folder(config.name) if output is None else _exact_folder(output)
            self._fill(path, config)
        except OSError as error:
            place = output or self.root
            raise InputError(f"Cannot make a run folder at {place}: {error.strerror}.", "Choose a folder you may write to.") from error
        return RunFolder(path)

    def list(self) -> RunSummaries:
        """Return every run, the latest first. Folders that hold no readable run are left out."""
        if not self.root.is_dir():
            return []
        with RunIndex(self.root) as index:
            return index.summaries()

    def _new_folder(self, name: str) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        stem = f"{datetime.now():%Y%m%d-%H%M%S}-{slug(name)}"
        for attempt in range(1, 10_000):
            path = self.root / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise InputError(f"{self.root} has too many runs called {stem}.", "Give the run another name.")

    def _fill(self, path: Path, config: RunConfig) -> None:
        try:
            write_atomically(path / "run.yaml", config_to_yaml(config))
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


def slug(name: str) -> str:
    """Turn a run's name into a part of a file name: lower case ASCII letters, digits and dashes."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "run"


def _exact_folder(output: Path) -> Path:
    refuse_existing(output, overwrite=False)
    output.mkdir(parents=True, exist_ok=True)
    return output
