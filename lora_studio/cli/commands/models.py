"""What several commands need: a base model that is ready on disk, and its tree."""

from __future__ import annotations

from pathlib import Path

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import run_job
from lora_studio.core.errors import StudioError
from lora_studio.core.modules import ModuleTree
from lora_studio.jobs.host import Host
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.sources import find_model
from lora_studio.models.tree_cache import cached_tree


def ready_folder(console: Console, host: Host, name_or_path: str, revision: str | None) -> Path:
    """Return the folder of a base model, made ready first; weights may be missing.

    Raises:
        InputError: There is no such model, or it cannot be used.
        StudioError: Making it ready failed.
    """
    source = find_model(name_or_path, revision)
    if source.path is not None and source.needs in ("", "weights"):
        return source.path
    arguments = {"name_or_path": name_or_path, "revision": revision, "weights": False}
    result = run_job(console, host, JobSpec("lora_studio.models.prepare:prepare", arguments, title=f"Make {name_or_path} ready"))
    return Path(result["path"])


def ready_tree(console: Console, host: Host, name_or_path: str, revision: str | None) -> tuple[Path, ModuleTree]:
    """Return the folder of a base model and its module tree, from the cache where it is known.

    Raises:
        InputError: There is no such model, or it cannot be used.
        StudioError: Inspecting it failed.
    """
    source = find_model(name_or_path, revision)
    if source.path is not None and source.needs in ("", "weights"):
        known = cached_tree(source.path)
        if known is not None:
            return source.path, known
    arguments = {"name_or_path": name_or_path, "revision": revision}
    result = run_job(console, host, JobSpec("lora_studio.models.inspect:inspect", arguments, title=f"Inspect {name_or_path}"))
    folder = Path(result["path"])
    tree = cached_tree(folder)
    if tree is None:
        raise StudioError(f"The module tree of {folder} was not kept.", "See that the cache folder can be written (`lora-studio doctor`).")
    return folder, tree
