"""What a run folder says of its surroundings: `environment.json` and `data.json`."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any

import torch

from lora_studio import __version__
from lora_studio.core.errors import InputError
from lora_studio.core.files import write_atomically
from lora_studio.core.runs import RunFolder
from lora_studio.core.settings import ModelSettings
from lora_studio.data.prepare import PreparedData
from lora_studio.generate.ready import ReadyBase
from lora_studio.lora.checkpointing import Checkpointing
from lora_studio.models.fingerprint import weight_fingerprint
from lora_studio.train.precision import Precision

ENVIRONMENT = "environment.json"
DATA = "data.json"
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


def environment_of(settings: ModelSettings, base: ReadyBase, precision: Precision, checkpointing: Checkpointing) -> dict[str, Any]:
    """Gather versions, device, what is computed again, and which base model this is: its commit, and the fingerprint of its weights."""
    return {
        "lora_studio": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in _PACKAGES},
        "device": {"type": base.device.type, "name": device_name(base.device), "threads": torch.get_num_threads()},
        "base": {
            "name_or_path": settings.name_or_path, "revision": settings.revision, "commit": base.commit,
            "weight_fingerprint": weight_fingerprint(base.folder), "dtype": str(base.dtype).removeprefix("torch."),
            "quantization": settings.quantization,
        },
        "compute_dtype": str(precision.compute).removeprefix("torch."),
        "gradient_checkpointing": str(checkpointing),
    }


def device_name(device: torch.device) -> str:
    """Give a device's own name, such as the graphics card's or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def write_records(run: RunFolder, environment: dict[str, Any], data: PreparedData, resume: bool) -> None:
    """Write both records; a run that goes on must find its base model and its data as they were.

    Raises:
        InputError: The base model's weights or the data have changed since the run began.
    """
    records = {ENVIRONMENT: environment, DATA: data.to_json()}
    if resume:
        _refuse_change(run, ENVIRONMENT, records, ("base", "weight_fingerprint"), "The base model's weights", "model.name_or_path")
        _refuse_change(run, DATA, records, ("data_fingerprint",), "The training data", "data.train")
    for name, record in records.items():
        write_atomically(run.path / name, json.dumps(record, indent=1, ensure_ascii=False))


def _refuse_change(run: RunFolder, name: str, records: dict[str, dict[str, Any]], keys: tuple[str, ...], what: str, field: str) -> None:
    try:
        before: Any = json.loads((run.path / name).read_text(encoding="utf-8"))
        now: Any = records[name]
        for key in keys:
            before, now = before[key], now[key]
    except FileNotFoundError:
        return  # the run ended before it was written
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Cannot read {run.path / name}: {error}.", "Start a new run with the same settings.") from error
    if before != now:
        raise InputError(f"{what} changed since the run {run.name} began.", "Put it back, or start a new run.", field)
