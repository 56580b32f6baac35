"""From the name of a base model to a loaded one: made ready on disk, dtype and device picked, held by the thread's `LoadedModel`."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_studio.core.control import TaskContext
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.settings import ModelSettings
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.models.facts import read_facts
from lora_studio.models.load import pick_device, pick_dtype
from lora_studio.models.prepare import prepare
from lora_studio.models.quantization import SAID


@dataclass(frozen=True)
class ReadyBase:
    """A base model, loaded.

    Attributes:
        folder: Where its files are.
        commit: Of a Hub model, else empty.
        model: The model, frozen; it belongs to `host`.
        tokenizer: Its tokenizer.
        host: Who owns it.
        dtype: How its weights are held; where they are quantized, the others.
        device: Where it is.
    """

    folder: Path
    commit: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    host: LoadedModel
    dtype: torch.dtype
    device: torch.device


def folder_of(context: TaskContext, name_or_path: str, revision: str | None) -> Generator[RunEvent, None, tuple[Path, str]]:
    """Make a base model ready on disk, passing on the events of that; return (folder, commit)."""
    found: dict[str, str] = {}
    for event in prepare(context, name_or_path, revision):
        if isinstance(event, RunFinished):
            found = {key: str(value or "") for key, value in event.result.items()}
        else:
            yield event
    return Path(found["path"]), found.get("commit", "")


def ready_base(context: TaskContext, settings: ModelSettings, device: str = "auto") -> Generator[RunEvent, None, ReadyBase]:
    """Make a base model ready on disk and load it, or take the warm one; return a `ReadyBase`.

    Args:
        context: Holds the warm model.
        settings: Which model, and in which dtype.
        device: `training.device` of a config.

    Raises:
        InputError: The model cannot be had or loaded, or the device is not there.
    """
    pick_device(device)
    folder, commit = yield from folder_of(context, settings.name_or_path, settings.revision)
    return (yield from load_base(context, settings, folder, commit, device))


def load_base(
    context: TaskContext,
    settings: ModelSettings,
    folder: Path,
    commit: str = "",
    device: str = "auto",
    dtype: torch.dtype | None = None,
) -> Generator[RunEvent, None, ReadyBase]:
    """Load the base model in `folder`, or take the warm one; return a `ReadyBase`.

    Args:
        context: Holds the warm model.
        settings: What it is called, and in which dtype and quantization it is wanted.
        folder: Where it is ready.
        commit: Of a Hub model.
        device: `training.device` of a config.
        dtype: Takes the place of `settings.dtype`.

    Raises:
        InputError: The model cannot be loaded or quantized here, or the device is not there.
    """
    context.control.check()
    place = pick_device(device)
    held = dtype or pick_dtype(place, settings.dtype, read_facts(folder).dtype)
    host = LoadedModel.of(context)
    name = Path(settings.name_or_path).name
    quantization = settings.quantization
    if not host.is_warm(folder, held, place, quantization):
        how = SAID[quantization] or str(held).removeprefix("torch.")
        yield Phase(name="loading", message=f"Loading {name} in {how} onto {place}")
    began = time.perf_counter()
    model = host.base(folder, held, place, quantization)
    tokenizer = host.tokenizer(folder)
    yield Phase(name="loading", message=f"{name} is ready after {time.perf_counter() - began:.1f} s", done=1, total=1)
    return ReadyBase(folder, commit, model, tokenizer, host, held, place)
