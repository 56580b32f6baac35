"""What is to be exported: a run, one of its checkpoints, or any PEFT LoRA folder. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from lora_studio.adapters.saved_adapter import CONFIG_NAME, WEIGHTS_NAME, read_adapter_config
from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError
from lora_studio.inference.adapters import whole_adapter
from lora_studio.models.quantization import NONE, SAID
from lora_studio.models.quantized_folders import folder_quantization
from lora_studio.models.safetensors_header import read_header
from lora_studio.models.stored_quantization import StoredQuantization


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
        stored: How its base's own files are quantized; None where they are not, or are not here yet.
    """

    adapter: Path
    base_name: str
    base_revision: str | None
    peft_config: dict[str, Any]
    run_dir: Path | None
    config: RunConfig | None
    label: str
    stored: StoredQuantization | None = None

    @property
    def base_quantization(self) -> str:
        """How the base was held while the adapter was trained: `model.quantization` of its run; none where no run tells."""
        return self.config.model.quantization if self.config else NONE

    @property
    def held_in(self) -> str:
        """What the base was held in while the adapter was trained, in words; empty where in full precision."""
        return SAID[self.base_quantization] or (self.stored.said if self.stored else "")

    def with_base(self, folder: Path) -> AdapterSource:
        """Return the same, knowing the base's folder."""
        return replace(self, stored=folder_quantization(folder))


def find_source(path: str | Path) -> AdapterSource:
    """Find the adapter that `path` means: of a run its final adapter, else its newest whole checkpoint; a checkpoint; an adapter folder.

    Raises:
        InputError: There is no such folder, no adapter in it, or one that is not as it was written or cannot be read safely.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder.", "Give a run, a checkpoint or a PEFT adapter folder.", "source")
    located = whole_adapter(folder)
    if located is None:
        raise InputError(
            f"{folder} is neither a run nor a PEFT adapter: it has no {CONFIG_NAME}.", "Give a run or an adapter folder.", "source"
        )
    adapter, run = located
    peft_config = read_adapter_config(adapter)
    check_weights(adapter)
    config = run.config if run else None
    base_name = config.model.name_or_path if config else str(peft_config.get("base_model_name_or_path") or "")
    if not base_name:
        raise InputError(f"{adapter / CONFIG_NAME} does not name its base model.", "Add base_model_name_or_path to it.", "source")
    revision = config.model.revision if config else cast("str | None", peft_config.get("revision"))
    return AdapterSource(adapter, base_name, revision, peft_config, run.path if run else None, config, _label(adapter, config))


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
            "Save the adapter as safetensors: model.save_pretrained(folder).",
            "source",
        )
    else:
        raise InputError(f"{weights} is missing.", "Give a folder with the adapter's weights.", "source")


def _label(adapter: Path, config: RunConfig | None) -> str:
    if config is None:
        return adapter.name
    step = adapter.name.removeprefix("step-").lstrip("0")
    return f"{config.name}, step {step}" if adapter.parent.name == "checkpoints" else config.name
