"""Checkpoints: everything a run needs to go on as if it had never stopped. No pickle, and a hash of every file.

checkpoints/step-000100/  adapter_model.safetensors, adapter_config.json, optimizer.safetensors, state.json, manifest.json
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_studio.adapters.portable_config import portable
from lora_studio.adapters.put_on import set_tensors
from lora_studio.core.errors import StudioError
from lora_studio.core.files import sha256_of, whole_folder
from lora_studio.core.runs import RunFolder, checkpoint_order
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST
from lora_studio.inference.loaded_model import active_config
from lora_studio.train.progress import Progress
from lora_studio.train.stepper import Stepper

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_FORMAT = 1
_SEPARATOR = "|"


@dataclass(frozen=True)
class CheckpointState:
    """What `state.json` holds.

    Random state is not in it: every micro-batch seeds its own from (seed, step, micro-batch).

    Attributes:
        progress: How far the run is.
        total_steps: Steps planned.
        seed: The run's seed.
        threads: Torch's threads: with another number, sums round differently.
        compute_dtype: dtype of the matrix products.
        scaler: The loss scale's state; empty without one.
        micro_rows: Rows of a micro-batch, where memory had it halved; 0 in checkpoints from before that was kept.
        config: The run's settings; empty in checkpoints from before they were kept.
        ranks: Processes that shared a step; with another number, sums round differently.
        format: Version of this layout.
    """

    progress: Progress
    total_steps: int
    seed: int
    threads: int
    compute_dtype: str
    scaler: dict[str, Any] = field(default_factory=dict[str, Any])
    micro_rows: int = 0
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    ranks: int = 1
    format: int = _FORMAT


def checkpoint_path(run: RunFolder, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run.path / "checkpoints" / f"step-{step:06d}"


def save_checkpoint(run: RunFolder, stepper: Stepper, state: CheckpointState, keep: int) -> Path:
    """Write a checkpoint, then remove older ones beyond `keep`, but for that of the best evaluation; give its folder.

    One that stands there already for this step is replaced.
    """
    target = checkpoint_path(run, state.progress.step)
    with whole_folder(target, overwrite=True) as folder:
        write_adapter(stepper.model, folder, run)
        save_file(_optimizer_tensors(stepper), folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps({"format": _FORMAT, "files": files}, indent=1), encoding="utf-8")
    prune(run, state.progress, keep)
    return target


def prune(run: RunFolder, progress: Progress, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and that of the best evaluation.

    Later ones than the run's step are broken, or they would have been gone on from: they do not count, and will be written anew.
    """
    newest, best = checkpoint_path(run, progress.step), checkpoint_path(run, progress.best_step)
    for old in [folder for folder in run.checkpoints if checkpoint_order(folder) <= checkpoint_order(newest)][:-keep]:
        if old != best:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, stepper: Stepper) -> CheckpointState:
    """Put a checkpoint back into the model, the optimizer and the loss scale.

    Raises:
        StudioError: It was made by another release, or for other modules than the model now has.
    """
    state = read_state(folder)
    try:
        adapter = load_file(folder / ADAPTER_WEIGHTS)
        moments = load_file(folder / OPTIMIZER)
    except (OSError, SafetensorError) as error:
        raise _unfit(folder, str(error)) from error
    _put_back(folder, stepper, adapter)
    _restore_optimizer(folder, stepper, moments)
    if state.scaler and stepper.loss_scale is not None:
        stepper.loss_scale.load_state_dict(state.scaler)
    return state


def load_weights(folder: Path, stepper: Stepper) -> None:
    """Put a checkpoint's adapter into the model, and nothing else.

    Raises:
        StudioError: It cannot be read, or was made for other modules than the model now has.
    """
    try:
        adapter = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _unfit(folder, str(error)) from error
    _put_back(folder, stepper, adapter)


def _put_back(folder: Path, stepper: Stepper, adapter: dict[str, Tensor]) -> None:
    try:
        missing, unexpected = set_tensors(stepper.model, adapter)
    except RuntimeError as error:
        raise _unfit(folder, " ".join(str(error).split())[:300]) from error
    lost = stepper.parameters.keys() & missing
    if lost or unexpected:
        raise _unfit(folder, f"it does not match the adapter at {next(iter(lost or unexpected))}")


def read_state(folder: Path) -> CheckpointState:
    """Read a checkpoint's `state.json`.

    Raises:
        StudioError: It is of another layout.
    """
    try:
        raw: Any = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if raw["format"] != _FORMAT:
            raise _unfit(folder, f"its format is {raw['format']!r}, this release reads {_FORMAT}")
        progress = Progress.from_json(raw.pop("progress"))
        return CheckpointState(progress, **raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unfit(folder, f"{STATE} cannot be read: {error}") from error


def write_adapter(model: PeftModel, folder: Path, run: RunFolder) -> None:
    """Write the adapter as `PeftModel.from_pretrained` expects it, into a folder that exists.

    Its config names the base model as the run does. PEFT's own `save_pretrained` asks the Hub about the base model's vocabulary and
    writes a model card; neither belongs here.
    """
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({name: _storable(tensor) for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config: Any = copy.deepcopy(active_config(model))
    config.inference_mode = True
    config.base_model_name_or_path = run.config.model.name_or_path
    config.revision = run.config.model.revision
    told = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(portable(told), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _storable(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _optimizer_tensors(stepper: Stepper) -> dict[str, Tensor]:
    return {
        f"{name}{_SEPARATOR}{kind}": _storable(value)
        for name, parameter in stepper.parameters.items()
        for kind, value in stepper.optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(folder: Path, stepper: Stepper, moments: dict[str, Tensor]) -> None:
    numbers = {name: number for number, name in enumerate(stepper.parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        name, _, kind = key.rpartition(_SEPARATOR)
        if name not in numbers:
            raise _unfit(folder, f"it has an optimizer state for {name}, which is not trained now")
        state.setdefault(numbers[name], {})[kind] = tensor
    whole = stepper.optimizer.state_dict()
    stepper.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _unfit(folder: Path, reason: str) -> StudioError:
    return StudioError(f"The checkpoint {folder} cannot be resumed from: {reason}.", "Start a new run with the same settings.")
