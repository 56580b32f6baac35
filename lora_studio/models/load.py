"""Load a base model and its tokenizer: safetensors only, no code from the model's folder, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError, StudioError
from lora_studio.models.check import FIELD, check_folder, read_json, refuse_code
from lora_studio.models.device import has_quick_bfloat16, pick_device, pick_dtype
from lora_studio.models.engine import quieten
from lora_studio.models.inspect import auto_class, load_config
from lora_studio.models.quantization import NONE, quantization_finding
from lora_studio.models.quantized_folders import folder_quantization
from lora_studio.models.stored_quantization import stored_finding

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["has_quick_bfloat16", "load_model", "load_tokenizer", "pick_device", "pick_dtype"]
ATTENTION = "sdpa"
_TOKENIZER_HINT = "The folder needs tokenizer.json and tokenizer_config.json of the same model."
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "tekken.json",
)


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device, quantization: str = NONE, *, unpack: bool = False
) -> PreTrainedModel:
    """Load a base model, frozen and in evaluation mode, with PyTorch's own attention.

    One that is quantized already is held as `stored_quantization` says: packed as it lies in its files, or unpacked as it is read.

    Args:
        folder: Folder with config.json and safetensors.
        dtype: How its weights are held; of a quantized model, what is not quantized.
        device: Where.
        quantization: `model.quantization`: nf4 and int8 quantize its linear layers as they are read.
        unpack: Whether weights that would stay packed are unpacked too.

    Raises:
        InputError: It is no model, is damaged or refused, or lacks weights that its config calls for; or it cannot be quantized here.
        StudioError: It does not fit into the device's memory.
    """
    import torch

    refused = quantization_finding(quantization, device.type)
    if refused is not None:
        raise refused.as_error()
    if not check_folder(folder):
        raise InputError(f"{folder} has a config.json but no weights.", "Put the model's *.safetensors files beside it.", FIELD)
    stored = folder_quantization(folder)
    refused = stored_finding(stored, quantization, device.type)
    if refused is not None:
        raise refused.as_error()
    config = load_config(folder)
    packed = stored is not None and stored.stays_packed and not unpack
    more = {"device_map": {"": device}} if packed else _quantized(quantization, dtype, device)
    try:
        model = _read_weights(folder, config, dtype, more) if stored is None else _read_packed(folder, config, dtype, more, packed)
        torch.nn.Module.to(model, device)
    except torch.cuda.OutOfMemoryError as error:
        message = f"{folder.name} in {str(dtype).removeprefix('torch.')} does not fit into the memory of {device}."
        raise StudioError(message, "Choose a smaller model, half precision, quantization, or the CPU.", "model.dtype") from error
    except (ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{folder} cannot be loaded: {said}", "Download or copy the model again.", FIELD) from error
    if quantization != NONE or packed:
        from lora_studio.models.quantized import freeze_layers

        freeze_layers(model)
    model.requires_grad_(False)
    return model.eval()


def _quantized(quantization: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return what has a model quantized as it is read, straight onto its device; nothing for one that is not."""
    if quantization == NONE:
        return {}
    from lora_studio.models.quantized import quantization_config

    return {"quantization_config": quantization_config(quantization, dtype), "device_map": {"": device}}


def _read_packed(folder: Path, config: Any, dtype: torch.dtype, more: dict[str, Any], packed: bool) -> PreTrainedModel:
    """Read a model that is quantized already from its unpacked tensors, or, where it stays packed, from its parts."""
    from lora_studio.models.reading import tensors_to_load, without_quantization

    family, tensors = tensors_to_load(folder, packed)
    bare = config if packed else without_quantization(config)
    model = _read_weights(folder, bare, dtype, {**more, "state_dict": tensors}, family)
    if packed:
        _cast_the_rest(model, dtype)
    known: Any = model
    known.name_or_path = known.config.name_or_path = str(folder)
    return model


def _cast_the_rest(model: Any, dtype: torch.dtype) -> None:
    """Cast what is not packed: beside packed weights transformers leaves every tensor called `weight` as it was stored."""
    plan: dict[str, Any] = model._get_dtype_plan(dtype)
    kept = {word for word, kind in plan.items() if kind != dtype}
    for name, parameter in model.named_parameters():
        whole = getattr(parameter, "quant_state", None) is None  # packed weights may be stored as if they were floats
        if whole and parameter.is_floating_point() and not any(word in f".{name}" for word in kept):
            parameter.data = parameter.data.to(dtype)


def _read_weights(folder: Path, config: Any, dtype: torch.dtype, more: dict[str, Any], family: Any = None) -> PreTrainedModel:
    """Read a model, onto the CPU unless told otherwise, with PyTorch's attention where its family has it."""
    source: Any = None if family else str(folder)

    def read(attention: str) -> tuple[PreTrainedModel, dict[str, Any]]:
        loaded: Any = (family or auto_class(config)).from_pretrained(
            source,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **more,
        )
        return loaded

    quieten()
    try:
        model, report = read(ATTENTION)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        model, report = read("eager")
    _refuse_missing(folder, report)
    return model


def _refuse_missing(folder: Path, report: dict[str, Any]) -> None:
    """Refuse a model some of whose weights would be random numbers: transformers only warns."""
    missing = sorted(report.get("missing_keys") or ())
    mismatched = sorted(str(entry[0]) for entry in report.get("mismatched_keys") or ())
    if missing or mismatched:
        what = (
            f"lacks {len(missing)} weights that its config calls for, first {missing[0]}"
            if missing
            else (f"has weights of other shapes than its config, first {mismatched[0]}")
        )
        raise InputError(f"{folder} {what}.", "Download or copy the model again; config and weights belong together.", FIELD)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer with a pad token settled.

    Padding is masked by position everywhere in the studio, never by comparing with the pad token, so a model whose pad
    token is its end token (the starter's is) still learns to end. Where there is none, the end token stands in.

    Raises:
        InputError: The folder holds no tokenizer, or one that asks for code of its own.
    """
    from transformers import AutoTokenizer

    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        refuse_code(read_json(settings), settings)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"{folder} holds no tokenizer.", _TOKENIZER_HINT, FIELD)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, use_fast=True)
    except Exception as error:  # the tokenizer libraries raise bare Exception too
        first_line = str(error).strip().split("\n")[0][:300]
        message = f"The tokenizer of {folder} cannot be loaded: {first_line}"
        raise InputError(message, _TOKENIZER_HINT, FIELD) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer
