"""`LoadedModel`: the one owner of a loaded model on its thread.

Loading costs seconds, so the base stays warm in `TaskContext.warm` from task to task. An adapter goes on for the length of a `with` block
and comes off again, leaving the base bit for bit as it was; where an adapter trained the base's own parameters (`bias`,
`modules_to_save`) or resized its vocabulary, the base is let go instead and loaded afresh when next asked for. Nobody else may hold the
model: PEFT's `disable_adapter` flips `requires_grad` for everyone.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_studio.adapters.put_on import put_on
from lora_studio.adapters.saved_adapter import SavedAdapter, with_own_names
from lora_studio.adapters.vocabulary import Vocabulary, resize_vocabulary
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.models.inspect import tree_of
from lora_studio.models.load import load_model, load_tokenizer
from lora_studio.models.quantization import NONE

_WARM_KEY = "model_host"
_Key = tuple[str, str, str, str, tuple[tuple[str, int, int], ...]]


class LoadedModel:
    """Owns at most one base model, its tokenizer, and the adapter that is on it."""

    def __init__(self) -> None:
        self._base: PreTrainedModel | None = None
        self._key: _Key | None = None
        self._tokenizer: tuple[_Key, PreTrainedTokenizerBase] | None = None
        self._adapted = False

    @classmethod
    def of(cls, context: TaskContext) -> LoadedModel:
        """Return the host kept warm in a task's context, a new one where there is none."""
        host = context.warm.setdefault(_WARM_KEY, cls())
        assert isinstance(host, cls)
        return host

    @property
    def loaded(self) -> bool:
        """Whether a base model is held."""
        return self._base is not None

    def base(self, folder: Path, dtype: torch.dtype, device: torch.device, quantization: str = NONE) -> PreTrainedModel:
        """Return the base model of `folder`, frozen, in eval mode: the warm one where folder, files, dtype, device, quantization agree.

        Raises:
            InputError: The folder holds no model we can load, or it cannot be quantized here.
        """
        key = _key(folder, dtype, device, quantization)
        if self._base is None or self._key != key:
            self.unload()
            self._base = load_model(folder, dtype, device, quantization)
            self._key = key
        self._base.requires_grad_(False)
        self._base.eval()
        return self._base

    def is_warm(self, folder: Path, dtype: torch.dtype, device: torch.device, quantization: str = NONE) -> bool:
        """Return whether `base` with these would answer at once."""
        return self._base is not None and self._key == _key(folder, dtype, device, quantization)

    def tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """Return the tokenizer of `folder`, kept as the base is."""
        key = _key(folder, torch.float32, torch.device("cpu"))
        if self._tokenizer is None or self._tokenizer[0] != key:
            self._tokenizer = (key, load_tokenizer(folder))
        return self._tokenizer[1]

    @contextlib.contextmanager
    def adapted(self, attach: Callable[[PreTrainedModel], PeftModel]) -> Generator[PeftModel]:
        """Put an adapter on the loaded base for the length of a block.

        Args:
            attach: Wraps the base, such as `lambda base: inject(base, settings)`.
        """
        assert self._base is not None, "load a base before an adapter"
        assert not self._adapted, "one adapter at a time"
        base = self._base
        rows = _vocabulary_rows(base)
        self._adapted = True
        model: PeftModel | None = None
        try:
            model = attach(base)
            yield model
        finally:
            self._adapted = False
            resized = _vocabulary_rows(base) != rows
            if model is not None and not changes_base(model) and not resized:
                _take_off(model, base)
            elif model is not None or resized or _is_wrapped(base):
                self.unload()  # trained itself, or left half wrapped

    @contextlib.contextmanager
    def with_adapter(self, folder: Path) -> Generator[PeftModel]:
        """Put a saved PEFT adapter on the loaded base for the length of a block.

        Raises:
            InputError: The folder holds no adapter, or one for another base model.
        """
        with self.adapted(lambda base: load_adapter(base, folder)) as model:
            model.eval()
            yield model

    def unload(self) -> None:
        """Let the base go and give its memory back."""
        self._base = None
        self._key = None
        free_memory()


def free_memory() -> None:
    """Release what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def active_config(model: PeftModel) -> Any:
    """Return PEFT's config of the adapter that is on."""
    name: Any = model.active_adapter
    return model.peft_config[name]


def changes_base(model: PeftModel) -> bool:
    """Return whether training this adapter moves parameters of the base itself, or taking it off would not put them back."""
    config = active_config(model)
    return bool(config.modules_to_save) or config.bias != "none" or bool(getattr(config, "trainable_token_indices", None))


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Put the PEFT adapter in `folder` on `base`, frozen.

    Raises:
        InputError: The folder holds no adapter, one that cannot be read, or one for another base model.
    """
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise InputError(
            f"{folder} holds no PEFT adapter.",
            "Give a folder with adapter_config.json and adapter_model.safetensors, or a finished run.",
        )
    _resize(base, folder)
    try:
        model = put_on(base, folder)
        _refuse_other_keys(model, folder)
    except (ValueError, RuntimeError, KeyError, OSError, TypeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"The adapter in {folder} does not fit the base model: {reason}"
        raise InputError(message, "Choose the base model it was trained on.") from error
    return model


def _resize(base: PreTrainedModel, folder: Path) -> None:
    """Resize a base to the vocabulary that an adapter with new tokens comes with."""
    tree = tree_of(base)
    try:
        adapter = SavedAdapter.open(folder, tree)
    except InputError:
        return  # PEFT knows more kinds of adapters, and says what is wrong with the rest
    vocabulary = Vocabulary.of(adapter, tree, Path(base.name_or_path or ""))
    if vocabulary.resized:
        resize_vocabulary(base, vocabulary.rows)


def _vocabulary_rows(base: PreTrainedModel) -> int:
    embedding: Any = base.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _refuse_other_keys(model: PeftModel, folder: Path) -> None:
    """Refuse an adapter some of whose weights found no place, or are missing: PEFT only warns of either."""
    wanted: set[str] = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    header, _ = with_own_names(folder / "adapter_model.safetensors")
    found = header.tensors.keys()
    lost = sorted(wanted - found) or sorted(name for name in found - wanted if ".lora_" in name)
    if lost:
        raise ValueError(f"{len(lost)} tensors differ, first {lost[0]}")


def _is_wrapped(base: PreTrainedModel) -> bool:
    return any(isinstance(module, BaseTunerLayer) for module in base.modules())


def _take_off(model: PeftModel, base: PreTrainedModel) -> None:
    model.base_model.unload()  # type: ignore[operator]
    base.requires_grad_(False)
    base.eval()


def _key(folder: Path, dtype: torch.dtype, device: torch.device, quantization: str = NONE) -> _Key:
    """What a loaded base is known by: changed files make it another one."""
    folder = folder.resolve()
    names = [path for path in sorted(folder.iterdir()) if path.suffix in {".safetensors", ".json", ".jinja"}]
    files = tuple((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in names)
    return str(folder), str(dtype), str(device), quantization, files
