"""The adapters of litgpt: a pickle of A and B, of query, key and value stacked in one, read as data alone and written as PEFT's.

`lit_model.pth.lora` holds `transformer.h.N.attn.qkv.lora_A`, r · enabled × in, and `.lora_B`, which has the rows of those of query, key
and value that were trained, one after another: each B acts on r rows of A. `hyperparameters.yaml` says which, `model_config.yaml` how many
heads there are.

Source: `litgpt/lora.py`, `finetune/lora.py` and `scripts/convert_hf_checkpoint.py` of litgpt 0.5.13.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lora_studio.adapters.saved_adapter import PREFIX
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

LITGPT_WEIGHTS = "lit_model.pth.lora"
LITGPT_SETTINGS = "hyperparameters.yaml"
LITGPT_MODEL = "model_config.yaml"
_NAME = re.compile(
    r"transformer\.h\.(?P<layer>\d{1,4})\.(?P<module>attn\.qkv|attn\.proj|mlp\.fc_1|mlp\.fc_2|mlp\.proj)\.(?P<part>lora_[AB])"
)
_HEAD = re.compile(r"lm_head\.(?P<part>lora_[AB])")
_MODULES = {"attn.proj": "self_attn.o_proj", "mlp.fc_1": "mlp.gate_proj", "mlp.fc_2": "mlp.up_proj", "mlp.proj": "mlp.down_proj"}
_PARTS = ("query", "key", "value")
_MLPS = ("LLaMAMLP", "GemmaMLP")
_LARGEST = 1 << 20
FIELD = "path"
WAY_OUT = (
    "Merge it there (litgpt merge_lora, litgpt convert_from_litgpt), then take its adapter out of the merged model: "
    "lora-studio adapter extract."
)
"""What to do where an adapter of litgpt is not taken over."""


def is_litgpt(folder: Path) -> bool:
    """Return whether a folder holds an adapter of litgpt."""
    return (folder / LITGPT_WEIGHTS).is_file()


def from_litgpt(folder: Path) -> list[Finding]:
    """Turn an adapter of litgpt, in its folder, into one of PEFT, value for value.

    Raises:
        InputError: It is damaged, no mere A and B, or of a model whose layers are fused.
    """
    from safetensors.torch import save_file

    settings, model = _table(folder / LITGPT_SETTINGS), _table(folder / LITGPT_MODEL)
    if model.get("mlp_class_name") not in _MLPS:
        raise _refused(f"its model's layers ({str(model.get('mlp_class_name'))[:40]}) are called otherwise in transformers")
    r = _whole(settings, "lora_r", LITGPT_SETTINGS)
    tensors = _tensors(folder / LITGPT_WEIGHTS)
    made: dict[str, Tensor] = {}
    for name in sorted(tensors):
        made |= dict(_renamed(name, tensors[name], settings, model, r))
    if not made:
        raise _refused("it holds no A and B")
    save_file({name: tensor.contiguous().clone() for name, tensor in made.items()}, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = _peft_config(settings, model, r, sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in made}))
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in (LITGPT_WEIGHTS, LITGPT_SETTINGS, LITGPT_MODEL):
        (folder / name).unlink()
    message = "It was written by litgpt; its values stand in PEFT's layout now, query, key and value by themselves, none of them changed."
    return [Finding("note", "from_litgpt", message, "", FIELD)]


def _table(path: Path) -> dict[str, Any]:
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _refused(f"{path.name} is not beside it", "Give the folder that litgpt wrote, whole.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _refused(f"its {path.name} cannot be read", "Copy the folder that litgpt wrote again.") from error
    return raw if isinstance(raw, dict) else {}


def _whole(table: Mapping[str, Any], key: str, where: str) -> int:
    value = table.get(key)
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise _refused(f"its {where} gives {str(value)[:40]} as {key}")
    return value


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read the pickle as data: nothing in it is called, and no tensor takes more room than the file."""
    import torch

    most = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise _refused("it is packed as torch packs no file")
        raw: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        raise _refused(f"{path.name} is damaged, or more than weights", "Download or copy it again.") from error
    held: Any = raw.get("model", raw) if isinstance(raw, dict) else {}
    found: dict[str, Tensor] = {}
    for name, value in held.items() if isinstance(held, dict) else ():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.dim() != 2 or not value.is_floating_point():
            raise _refused(f"it has an entry {str(name)[:80]!r} that is no matrix of numbers")
        most -= value.numel() * value.element_size()
        if most < 0 or value.device.type != "cpu":
            raise _refused("its matrices claim to be larger than the file")
        found[str(name)] = value
    return found


def _renamed(name: str, tensor: Tensor, settings: Mapping[str, Any], model: Mapping[str, Any], r: int) -> Iterator[tuple[str, Tensor]]:
    head, found = _HEAD.fullmatch(name), _NAME.fullmatch(name)
    if head:
        yield f"{PREFIX}lm_head.{head['part']}.weight", tensor
        return
    if found is None:
        older = ": it is of an older litgpt, which mixed query, key and value" if ".attn.attn." in name else ""
        raise _refused(f"it has a tensor named {name[:80]!r}{older}")
    layer = f"{PREFIX}model.layers.{found['layer']}"
    if found["module"] != "attn.qkv":
        yield f"{layer}.{_MODULES[found['module']]}.{found['part']}.weight", tensor
        return
    enabled = [which for which in _PARTS if settings.get(f"lora_{which}") is True]
    rows = [r if found["part"] == "lora_A" else _rows(model, which) for which in enabled]
    if sum(rows) != tensor.shape[0]:
        raise _refused(f"{name} has {tensor.shape[0]:,} rows, and {sum(rows):,} by its settings")
    for which, part in zip(enabled, tensor.split(rows), strict=True):
        yield f"{layer}.self_attn.{which[0]}_proj.{found['part']}.weight", part


def _rows(model: Mapping[str, Any], which: str) -> int:
    heads = "n_head" if which == "query" else "n_query_groups"
    return _whole(model, heads, LITGPT_MODEL) * _whole(model, "head_size", LITGPT_MODEL)


def _peft_config(settings: Mapping[str, Any], model: Mapping[str, Any], r: int, modules: list[str]) -> dict[str, Any]:
    source: Any = model.get("hf_config")
    org, name = (source.get("org"), source.get("name")) if isinstance(source, dict) else (None, None)
    base = f"{org}/{name}" if isinstance(org, str) and isinstance(name, str) and org and name else None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": r,
        "lora_alpha": _whole(settings, "lora_alpha", LITGPT_SETTINGS),
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "inference_mode": True,
    }


def _refused(what: str, hint: str = WAY_OUT) -> InputError:
    return InputError(f"The adapter was written by litgpt, and cannot be taken over: {what}.", hint, FIELD)
