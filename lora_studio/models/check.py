"""Is this folder a model we may load? Looked at before anything in it is obeyed, without torch.

Weights are read from safetensors only: pickled ones (`.bin`, `.pt`) can run code. A config that asks for code of its own is
refused (CVE-2026-4372: `_attn_implementation_internal` fetches and runs a kernel without being asked).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.settings import STARTER_MODEL
from lora_studio.models.errors import IncompleteModelError
from lora_studio.models.safetensors_header import FIELD, SafetensorsHeader, read_header

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
_AGAIN = "Download or copy the model again."
_MAX_JSON_BYTES = 64_000_000
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_KERNEL_KEYS = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation")
_CODE_KEYS = ("auto_map", "custom_pipelines", "_attn_implementation_internal", "_experts_implementation_internal")


def read_json(path: Path) -> Any:
    """Read a JSON file of a model.

    Raises:
        InputError: It is not there, too large, or not JSON; the message names file and line.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"{path} is too large for a JSON file of a model.", _AGAIN, FIELD)
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.", "Check that the model's folder is whole.", FIELD) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: line {error.lineno}: {error.msg}.", _AGAIN, FIELD) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not JSON text.", _AGAIN, FIELD) from error


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's `config.json` and refuse what asks to run code.

    Raises:
        InputError: The folder is no model, its config is malformed or not to be trusted.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise _no_model(folder)
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a table of settings.", _AGAIN, FIELD)
    refuse_code(config, path)
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        hint = "The config.json of a transformers model says which family it is, such as llama."
        raise InputError(f"{path} names no model_type.", hint, FIELD)
    _check_names(config, path)
    return config


def _check_names(config: dict[str, Any], path: Path) -> None:
    """See that what is gone by as a name is one."""
    listed: Any = config.get("architectures") or []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise InputError(f"{path}: architectures is no list of names.", _AGAIN, FIELD)
    for key, part in config.items():
        if isinstance(part, dict) and not isinstance(part.get("model_type", ""), str):
            raise InputError(f"{path}: model_type of {key} is no name.", _AGAIN, FIELD)


def refuse_code(config: Any, path: Path) -> None:
    """Raise `InputError` when a config, or a table inside it, names code to run."""
    if isinstance(config, list):
        for value in config:
            refuse_code(value, path)
    if not isinstance(config, dict):
        return
    for key in _CODE_KEYS:
        if config.get(key):
            raise InputError(
                f"{path} asks for code of its own ({key}).",
                "LoRA Studio runs no code that comes with a model. Choose a model transformers knows without trust_remote_code.",
                FIELD,
            )
    for key in _KERNEL_KEYS:
        value = json.dumps(config.get(key))
        if "/" in value:
            raise InputError(f"{path} asks for a kernel from elsewhere ({key}: {value}).", "Take the key out of the file.", FIELD)
    if config.get("transformers_weights") not in (None, WEIGHTS_NAME, INDEX_NAME):
        message = f"{path} names other weights than {WEIGHTS_NAME} ({config['transformers_weights']})."
        raise InputError(message, "Take the key transformers_weights out of the file.", FIELD)
    for value in config.values():
        refuse_code(value, path)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Name the safetensors files that make up a model's weights, or nothing when it has none of any kind.

    Raises:
        InputError: Shards named in the index are missing, or the weights are pickled.
    """
    index = folder / INDEX_NAME
    if (folder / WEIGHTS_NAME).is_file():
        return (folder / WEIGHTS_NAME,)
    if index.is_file():
        return _shards(folder, index)
    pickled = sorted(found.name for pattern in _PICKLED for found in folder.glob(pattern) if found.name != "training_args.bin")
    if pickled:
        raise InputError(
            f"{folder} has its weights only as {pickled[0]}, a format that can run code when it is read.",
            "Choose a safetensors version: many models have one on the Hub at the revision refs/pr/1. Or save it with save_pretrained.",
            FIELD,
        )
    return ()


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    table: Any = read_json(index)
    weight_map: Any = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map.", _AGAIN, FIELD)
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise InputError(f"{index} names {name!r}, which is no safetensors file beside it.", _AGAIN, FIELD)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise IncompleteModelError(f"{folder} misses {len(missing)} of {len(names)} weight files, first {missing[0]}.", _AGAIN, FIELD)
    return tuple(folder / name for name in names)


def read_headers(folder: Path) -> dict[Path, SafetensorsHeader]:
    """Read the header of every weight file, checked against the files' sizes; empty when there are no weights.

    Raises:
        InputError: Weights are missing in part, cut, damaged or pickled.
    """
    headers = {path: read_header(path) for path in weight_files(folder)}
    index = folder / INDEX_NAME
    if len(headers) > 1 and index.is_file():
        weight_map: dict[str, str] = read_json(index)["weight_map"]
        for tensor, name in weight_map.items():
            if tensor not in headers[folder / name].tensors:
                raise IncompleteModelError(f"{folder / name} misses the tensor {tensor} that the index names.", _AGAIN, FIELD)
    return headers


def check_folder(folder: Path) -> bool:
    """Check a model's config and weights; give whether it has weights at all.

    Raises:
        InputError: There is no such folder, it is no model, or something in it is missing, cut, malformed or refused.
    """
    if not folder.exists():
        raise InputError(f"There is no folder {folder}.", f"Check the path, or give a Hub id such as {STARTER_MODEL}.", FIELD)
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a model's folder.", "Choose the folder that holds config.json, or a .gguf file.", FIELD)
    if (folder / "adapter_config.json").is_file():  # transformers would follow it to another model
        raise InputError(f"{folder} is an adapter, not a base model.", "Choose the base model it was trained on.", FIELD)
    read_model_config(folder)
    return bool(read_headers(folder))


def _no_model(folder: Path) -> InputError:
    gguf = sorted(folder.glob("*.gguf"))
    if gguf:
        return InputError(f"{folder} has no config.json.", f"Choose the file {gguf[0].name} in it.", FIELD)
    return InputError(f"{folder} is no model: it has no config.json.", "Choose the folder that holds config.json and *.safetensors.", FIELD)
