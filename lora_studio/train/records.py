"""What a run folder says of its surroundings: `environment.json` and `data.json`."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lora_studio import __version__
from lora_studio.core.config import RunConfig, field_paths
from lora_studio.core.errors import InputError
from lora_studio.core.events import Notice
from lora_studio.core.files import write_atomically
from lora_studio.core.runs import RunFolder
from lora_studio.core.settings import ModelSettings
from lora_studio.data.prepare import PreparedData
from lora_studio.inference.ready import ReadyBase
from lora_studio.models.fingerprint import weight_fingerprint
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.train.precision import Precision
from lora_studio.train.ranks import Ranks

if TYPE_CHECKING:
    from lora_studio.train.checkpoint import CheckpointState

ENVIRONMENT = "environment.json"
DATA = "data.json"
# What may be changed in a run's folder by hand: names and places (their contents are compared), and what only tells or keeps.
_FREE = frozenset(
    {
        "name",
        "model.name_or_path",
        "model.revision",
        "data.train",
        "data.eval",
        "adapter.warm_start",
        "training.device",
        "training.distributed_type",
        "training.logging_steps",
        "training.eval_steps",
        "training.save_steps",
        "training.save_minutes",
        "training.save_total_limit",
        "training.sample_steps",
        "training.sample_rows",
        "training.sample_max_new_tokens",
        "training.early_stopping_patience",
        "training.early_stopping_threshold",
        "training.load_best_model_at_end",
        "training.gradient_checkpointing",
        "training.gradient_checkpointing_every",
    }
)
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


def environment_of(
    settings: ModelSettings,
    base: ReadyBase,
    precision: Precision,
    checkpointing: Checkpointing,
    ranks: Ranks,
) -> dict[str, Any]:
    """Gather versions, device, processes, what is computed again, and which base model this is: commit, and fingerprint of its weights."""
    return {
        "lora_studio": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in _PACKAGES},
        "device": {"type": base.device.type, "name": device_name(base.device), "threads": torch.get_num_threads()},
        "base": {
            "name_or_path": settings.name_or_path,
            "revision": settings.revision,
            "commit": base.commit,
            "weight_fingerprint": weight_fingerprint(base.folder),
            "dtype": str(base.dtype).removeprefix("torch."),
            "quantization": settings.quantization,
        },
        "compute_dtype": str(precision.compute).removeprefix("torch."),
        "gradient_checkpointing": str(checkpointing),
        "processes": {"count": ranks.size, "backend": ranks.backend, "sharded": ranks.sharded},
    }


def device_name(device: torch.device) -> str:
    """Return a device's own name, such as the graphics card's or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def write_records(run: RunFolder, environment: dict[str, Any], data: PreparedData, resume: bool) -> None:
    """Write both records; a run that goes on must find its base model and its data as they were.

    The environment stays that of the first attempt; where a later one's differs, it is added under `resumed`.

    Raises:
        InputError: The base model's weights, the tokenizer or the data have changed since the run began.
    """
    records = {ENVIRONMENT: environment, DATA: data.to_json()}
    first = {name: _read(run.path / name) for name in records} if resume else {}
    if resume:
        refuse_changes(run, [*_base_changes(first[ENVIRONMENT], environment), *_data_changes(first[DATA], records[DATA])])
    records[ENVIRONMENT] = _with_attempt(first.get(ENVIRONMENT), environment)
    for name, record in records.items():
        write_atomically(run.path / name, json.dumps(record, indent=1, ensure_ascii=False))


def refuse_changes(run: RunFolder, changes: list[tuple[str, str]]) -> None:
    """Raise `InputError` for what is not as it was when the run began, each as (what differs, its field)."""
    if changes:
        told = "; ".join(what for what, _field in changes)
        raise InputError(
            f"The run {run.name} cannot go on, since things are not as they were when it began: {told}.",
            f"Put them back; or start a new run that begins from this one's adapter: set adapter.warm_start to {run.path}.",
            changes[0][1],
        )


def config_changes(before: dict[str, Any], config: RunConfig) -> list[tuple[str, str]]:
    """Name the settings that are not those a checkpoint was made with, but for what decides no number of the run."""
    if not before:
        return []
    now: dict[str, Any] = config.model_dump(mode="json")
    changed: list[tuple[str, str]] = []
    for path in field_paths():
        section, _, field = path.rpartition(".")
        was, is_now = (tree.get(section, {}).get(field) for tree in (before, now)) if section else (before.get(field), now.get(field))
        if was != is_now and path not in _FREE and field in before.get(section, before):
            changed.append((f"{path} was {was} and is {is_now}", path))
    return changed


def _base_changes(before: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if before is None:
        return
    was, base = before.get("base", {}), now["base"]
    if was.get("weight_fingerprint") != base["weight_fingerprint"]:
        yield (
            f"the weights of {base['name_or_path']} are others ({_short(was.get('weight_fingerprint'))} before, "
            f"{_short(base['weight_fingerprint'])} now)",
            "model.name_or_path",
        )


def _data_changes(before: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name what in the data differs; nothing where the tokens are the same."""
    if before is None or before.get("data_fingerprint") == now["data_fingerprint"]:
        return
    changes: list[tuple[str, str]] = []
    for part, field in (("tokenizer", "model.name_or_path"), ("chat_template", "data.chat_template")):
        was, is_now = before.get("made_with", {}).get(part), now["made_with"][part]
        if was is not None and was != is_now:
            changes.append((f"the {part.replace('_', ' ')} is another ({_short(was)} before, {_short(is_now)} now)", field))
    changes += [(told, "data.train") for told in _file_changes(before.get("files", []), now["files"])]
    yield from changes or [("the same files make other rows", "data.train")]


def _file_changes(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[str]:
    was, are = ({file["path"]: file["sha256"] for file in files} for files in (before, now))
    for path in was.keys() - are.keys():
        yield f"{path} is gone"
    for path, digest in are.items():
        if path not in was:
            yield f"{path} is new"
        elif was[path] != digest:
            yield f"{path} has other content (sha256 {_short(was[path])} before, {_short(digest)} now)"


def _with_attempt(first: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    if first is None:
        return now
    later = list(first.get("resumed", []))
    original = {key: value for key, value in first.items() if key != "resumed"}
    if now != (later[-1] if later else original):
        later.append(now)
    return {**original, "resumed": later} if later else original


def _read(path: Path) -> dict[str, Any] | None:
    """Read a record; None where the run ended before it was written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}.", "Start a new run with the same settings.") from error


def _short(digest: object) -> str:
    return str(digest)[:8]


def computed_otherwise(state: CheckpointState, precision: Precision, processes: int) -> Iterator[Notice]:
    """Tell what a run's checkpoint was computed with that is not so here: precision, threads, processes."""
    step, compute, threads = state.progress.step, str(precision.compute).removeprefix("torch."), torch.get_num_threads()
    if state.compute_dtype != compute:
        yield Notice(
            level="warning",
            code="precision_changed",
            step=step,
            message=f"The run computed in {state.compute_dtype} before and does in {compute} here.",
            hint="Set compute_dtype in a new run where the two must agree.",
        )
    if state.threads != threads:
        yield Notice(
            code="threads_changed",
            step=step,
            message=f"The run computed with {state.threads} threads before and does with {threads} now: "
            "sums will round a little differently.",
        )
    if state.ranks != processes:
        yield Notice(
            code="processes_changed",
            step=step,
            message=f"The run computed in {state.ranks} processes before and does in {processes} now: its steps take the same "
            "rows, and sums will round a little differently.",
        )
