"""Where a trained adapter is: a run, one of its checkpoints, any PEFT adapter folder, or none at all for a base model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.files import sha256_of
from lora_studio.core.runs import RunFolder, last_line

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
ADAPTER_DIGEST = "adapter_sha256"
"""Under which a finished run tells the sha256 of its final adapter's weights: that folder holds what PEFT puts there and no more."""


@dataclass(frozen=True)
class ChatAdapter:
    """A base model, and the adapter for it where there is one.

    Attributes:
        base: What the base model is called.
        revision: Its branch, tag or commit.
        adapter: Folder with the PEFT adapter; None for the base model alone.
        run: The run it comes from, where it is one.
    """

    base: str
    revision: str | None = None
    adapter: Path | None = None
    run: RunFolder | None = None


def find_adapter(source: str) -> ChatAdapter:
    """Find what a person names: a run folder, a checkpoint, a PEFT adapter folder, or else a base model.

    Raises:
        InputError: A run without an adapter yet, an adapter that does not say its base model, or one that is not as it was written.
    """
    path = Path(source).expanduser()
    found = whole_adapter(path)
    if found is None:
        return ChatAdapter(source)
    adapter, run = found
    if run is not None and path.resolve() == run.path:
        return ChatAdapter(run.config.model.name_or_path, run.config.model.revision, adapter, run)
    base, revision = base_of(adapter)
    return ChatAdapter(base, revision, adapter, run)


def whole_adapter(path: Path) -> tuple[Path, RunFolder | None] | None:
    """Return the adapter's folder that a path means, as it was written, and the run it is of; None where the path is no adapter.

    Of a run it is the final adapter, else the newest whole checkpoint.

    Raises:
        InputError: A run without an adapter yet, or an adapter whose files are not what was written.
    """
    if (path / "run.yaml").is_file():
        run = RunFolder.open(path)
        return _of_run(run), run
    if not (path / ADAPTER_CONFIG).is_file():
        return None
    run = _run_around(path.resolve())
    if run is not None and path.resolve() == run.adapter_path:
        _refuse_changed(run)
    elif (path / MANIFEST).is_file():
        _refuse_broken(path, run)
    return path, run


def adapter_unread(path: Path) -> Path | None:
    """Return the adapter's folder that a path means, its weights not read to see that they are as written; None where there is none."""
    if not (path / "run.yaml").is_file():
        return path if (path / ADAPTER_CONFIG).is_file() else None
    run = RunFolder.open(path)
    final = run.adapter_path
    return final if (final / ADAPTER_CONFIG).is_file() else next(reversed(run.checkpoints), None)


def base_of(adapter: Path) -> tuple[str, str | None]:
    """Read an adapter's base model and revision.

    Raises:
        InputError: Its config is no JSON, or names no base model.
    """
    path = adapter / ADAPTER_CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}.", "Give a folder that PEFT saved an adapter in.") from error
    base: object = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise InputError(f"{path} names no base model.", "Write its folder or Hub id as base_model_name_or_path.")
    revision: object = config.get("revision")
    return base, revision if isinstance(revision, str) else None


def newest_whole(run: RunFolder) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Return a run's newest checkpoint that is as it was written, and the newer ones that are not, each with what is wrong."""
    broken: list[tuple[Path, str]] = []
    for folder in reversed(run.checkpoints):
        fault = fault_of(folder)
        if not fault:
            return folder, broken
        broken.append((folder, fault))
    return None, broken


def fault_of(checkpoint: Path) -> str:
    """Say what is wrong with a checkpoint's files, going by the sha256 of each in its manifest; empty when nothing is."""
    try:
        manifest: Any = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = dict(manifest["files"])
        for name, digest in files.items():
            if sha256_of(checkpoint / name) != digest:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return "" if {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= files.keys() else f"{MANIFEST} names no adapter"


def _of_run(run: RunFolder) -> Path:
    if (run.adapter_path / ADAPTER_CONFIG).is_file():
        _refuse_changed(run)
        return run.adapter_path
    newest, broken = newest_whole(run)
    if newest is not None:
        return newest
    if broken:
        raise InputError(f"No checkpoint of the run {run.path} is whole: {broken[0][0].name}: {broken[0][1]}.", "Train it again.", "source")
    raise InputError(f"The run {run.path} has no adapter yet.", "Let it take a step and save, or resume it.", "source")


def _run_around(folder: Path) -> RunFolder | None:
    """Return the run that an adapter or a checkpoint lies in."""
    run = folder.parents[1] if folder.parent.name == "checkpoints" else folder.parent
    return RunFolder(run) if (run / "run.yaml").is_file() else None


def _refuse_broken(checkpoint: Path, run: RunFolder | None) -> None:
    fault = fault_of(checkpoint)
    if not fault:
        return
    whole = newest_whole(run)[0] if run else None
    hint = f"Use {whole}, which is whole." if whole else "Copy it again from where it came from, or use another one."
    raise InputError(f"The checkpoint {checkpoint} is broken: {fault}.", hint, "source")


def _refuse_changed(run: RunFolder) -> None:
    """Hold the final adapter against the sha256 with which its run finished; a run that told none is believed."""
    last = last_line(run.events_path) or {}
    told: Any = last.get("result") if last.get("event") == "run_finished" else None
    digest: object = told.get(ADAPTER_DIGEST) if isinstance(told, dict) else None
    weights = run.adapter_path / ADAPTER_WEIGHTS
    if digest is None or (weights.is_file() and sha256_of(weights) == digest):
        return
    whole = newest_whole(run)[0]
    hint = f"Use {whole}, which is whole." if whole else "Resume the run, which writes it anew."
    raise InputError(f"The adapter {run.adapter_path} is broken: {ADAPTER_WEIGHTS} is missing or not what was written.", hint, "source")
