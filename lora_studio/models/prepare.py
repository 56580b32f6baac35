"""The task that makes a base model ready on disk: convert the starter or a GGUF file, download a Hub model."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.errors import InputError
from lora_studio.core.events import RunEvent, RunFinished
from lora_studio.models.check import FIELD
from lora_studio.models.sources import ModelSource, find_model
from lora_studio.models.spellings import mend_folder


def prepare(context: TaskContext, name_or_path: str, revision: str | None = None, *, weights: bool = True) -> Iterator[RunEvent]:
    """Task: make a base model ready on disk; result `{"path", "commit"}`.

    Args:
        context: Its control can cancel a conversion or a download; what is whole stays.
        name_or_path: A folder, a GGUF file, `starter` or a Hub id.
        revision: Branch, tag or commit of a Hub model.
        weights: Whether a folder without weights is refused (`inspect` needs none).

    Raises:
        InputError: The model cannot be had: the message says why and what to do.
    """
    path = yield from ready_model(context, name_or_path, revision, weights=weights)
    yield RunFinished(result={"path": str(path), "commit": find_model(name_or_path, revision).commit})


def ready_model(
    context: TaskContext, name_or_path: str, revision: str | None = None, *, weights: bool = True
) -> Generator[RunEvent, None, Path]:
    """Make a base model ready on disk from within another task, and return its folder; arguments and errors as `prepare`."""
    source = find_model(name_or_path, revision)
    if source.needs == "convert":
        return (yield from _convert(context, source))
    if source.needs == "download":
        return (yield from _download(context, source))
    if source.needs == "weights" and weights:
        raise InputError(f"{source.path} has a config.json but no weights.", "Put the model's *.safetensors files beside it.", FIELD)
    assert source.path is not None
    if source.file is not None:
        mend_folder(source.path)  # converted by a release that wrote transformers 5's names alone
    return source.path


def _convert(context: TaskContext, source: ModelSource) -> Generator[RunEvent, None, Path]:
    import_engine()
    from lora_studio.models.convert import convert_gguf

    assert source.file is not None
    return (yield from convert_gguf(source.file, source.name, context))


def _download(context: TaskContext, source: ModelSource) -> Generator[RunEvent, None, Path]:
    from lora_studio.models.download import download_model

    return (yield from download_model(source.name, source.revision, context))
