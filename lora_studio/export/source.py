"""What is to be exported: a run, one of its checkpoints, or any PEFT LoRA folder. No torch here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import read_config
from lora_studio.core.errors import InputError
from lora_studio.models.safetensors_header import read_header

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


@dataclass(frozen=True)
class AdapterSource:
    """An adapter on disk and what is known about where it came from.

    Attributes:
        adapter: Folder with `adapter_config.json` and `adapter_model.safetensors`.
        base_name: Name or path of the base model it was trained on.
        base_revision: Its revision, where one was named.
        peft_config: `adapter_config.json` as it stands.
        run_dir: The run it belongs to, if any.
        config: That run's own config; never a draft.
        label: How a person would call it: "support-triage, step 36" or the folder's name.
    """

    adapter: Path
    base_name: str
    base_revision: str | None
    peft_config: dict[str, Any]
    run_dir: Path | None
    config: RunConfig | None
    label: str


def find_source(path: str | Path) -> AdapterSource:
    """Find the adapter that `path` means: of a run its final adapter, else its newest checkpoint; a checkpoint; an adapter folder.

    Raises:
        InputError: There is no such folder, no adapter in it, or one that cannot be read safely.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder.", "Give a run, a checkpoint or a PEFT adapter folder.", "source")
    adapter = _adapter_folder(folder)
    peft_config = read_adapter_config(adapter)
    check_weights(adapter)
    run_dir = _run_of(adapter)
    config = read_config(run_dir / "run.yaml") if run_dir else None
    base_name = config.model.name_or_path if config else str(peft_config.get("base_model_name_or_path") or "")
    if not base_name:
        raise InputError(f"{adapter / CONFIG_NAME} does not name its base model.", "Add base_model_name_or_path to it.", "source")
    revision = config.model.revision if config else cast("str | None", peft_config.get("revision"))
    return AdapterSource(adapter, base_name, revision, peft_config, run_dir, config, _label(adapter, config))


def read_adapter_config(adapter: Path) -> dict[str, Any]:
    """Read an adapter's `adapter_config.json`.

    Raises:
        InputError: It is missing, malformed, or no LoRA.
    """
    path = adapter / CONFIG_NAME
    try:
        raw: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.", "Give a PEFT adapter folder.", "source") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.", "Export the adapter again.", "source") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} is not a JSON object.", "Export the adapter again.", "source")
    config = cast("dict[str, Any]", raw)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA is read here.", "Give a LoRA adapter.", "source")
    return config


def check_weights(adapter: Path) -> None:
    """See that an adapter's weights are there, whole, and no pickle.

    Raises:
        InputError: They are not.
    """
    weights = adapter / WEIGHTS_NAME
    if weights.is_file():
        read_header(weights)
    elif (adapter / "adapter_model.bin").exists():
        raise InputError(
            f"{adapter} holds its weights as a pickle (adapter_model.bin), which can run code when read.",
            "Save the adapter as safetensors: model.save_pretrained(folder).", "source",
        )
    else:
        raise InputError(f"{weights} is missing.", "Give a folder with the adapter's weights.", "source")


def _adapter_folder(folder: Path) -> Path:
    if (folder / CONFIG_NAME).exists():
        return folder
    if (folder / "run.yaml").exists():
        if (folder / "adapter" / CONFIG_NAME).exists():
            return folder / "adapter"
        checkpoints = sorted(path.parent for path in folder.glob(f"checkpoints/step-*/{CONFIG_NAME}"))
        if checkpoints:
            return checkpoints[-1]
        raise InputError(f"The run {folder.name} has no adapter yet.", "Train it until its first checkpoint, then export.", "source")
    raise InputError(
        f"{folder} is neither a run nor a PEFT adapter: it has no {CONFIG_NAME}.", "Give a run or an adapter folder.", "source"
    )


def _run_of(adapter: Path) -> Path | None:
    for folder in (adapter.parent, adapter.parent.parent):
        if (folder / "run.yaml").is_file() and adapter.parent.name in (folder.name, "checkpoints"):
            return folder
    return None


def _label(adapter: Path, config: RunConfig | None) -> str:
    if config is None:
        return adapter.name
    step = adapter.name.removeprefix("step-").lstrip("0")
    return f"{config.name}, step {step}" if adapter.parent.name == "checkpoints" else config.name
