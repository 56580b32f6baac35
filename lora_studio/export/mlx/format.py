"""The adapters of mlx-lm: y = W·x + scale · (x·A)·B, with A in × r and B r × out; of DoRA the length of each row of out beside them.

`adapter_config.json` names rank and scale once for all modules. `keys` are modules of each of the last `num_layers` layers, or modules by
their whole name; weights lie in `adapters.safetensors`. No torch here.

Source: `mlx_lm/tuner/utils.py`, `lora.py` and `dora.py` of mlx-lm 0.32.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.export.merge.renamed_tensors import Renamed, write_renamed
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from lora_studio.models.safetensors_header import TensorEntry, read_header

MLX_WEIGHTS = "adapters.safetensors"
MLX_FAMILIES = frozenset(
    {
        "cohere",
        "cohere2",
        "ernie4_5",
        "falcon_h1",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "granite",
        "helium",
        "hunyuan_v1_dense",
        "llama",
        "ministral3",
        "mistral",
        "mixtral",
        "nemotron",
        "olmo2",
        "olmoe",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "seed_oss",
        "smollm3",
        "starcoder2",
    }
)
"""Families whose linear layers and embeddings mlx-lm 0.32.2 calls as transformers does: found by making both of each."""
_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")
_SWITCH = re.compile(r"(?P<owner>.+)\.switch_mlp\.(?P<which>gate_proj|up_proj|down_proj)")
_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_FLOATS = ("F32", "F16", "BF16", "F64")
FIELD = "path"
FUSE = "Fuse it with mlx-lm (mlx_lm.fuse --dequantize), and use the fused model as a base."
"""The way out where PEFT has no such adapter."""


def is_mlx(folder: Path) -> bool:
    """Return whether a folder holds an adapter of mlx-lm."""
    return (folder / MLX_WEIGHTS).is_file() and not (folder / ADAPTER_WEIGHTS).is_file()


def from_mlx(folder: Path) -> list[Finding]:
    """Turn an adapter of mlx-lm, in its folder, into one of PEFT, value for value.

    Raises:
        InputError: It is damaged, or more than a LoRA or DoRA that PEFT has.
    """
    settings = _settings(folder / ADAPTER_CONFIG)
    tensors = read_header(folder / MLX_WEIGHTS).tensors
    modules: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in tensors.items():
        found = _PART.fullmatch(name)
        if found is None or entry.dtype not in _FLOATS or len(name) > 500 or not name.isprintable():
            raise _refused(f"it has a tensor named {name[:80]!r} ({entry.dtype})", FUSE)
        modules.setdefault(found["module"], {})[found["part"]] = entry
    config, told = _peft_config(settings, modules)
    renamed = [tensor for module, parts in modules.items() for tensor in _renamed(module, parts, dora=config["use_dora"])]
    write_renamed(folder / MLX_WEIGHTS, folder / ADAPTER_WEIGHTS, renamed)
    (folder / MLX_WEIGHTS).unlink()
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    message = "It was written by mlx-lm; its values stand in PEFT's layout now, none of them changed."
    return [Finding("note", "from_mlx", message, "", FIELD), *told]


def refuse_tied(modules: Iterable[str], tree: ModuleTree) -> None:
    """See that mlx-lm put no adapter on an embedding that is the output layer too: there it acts in both places, in PEFT in one.

    Args:
        modules: Those it is on.
        tree: The base model's.

    Raises:
        InputError: It did.
    """
    ties = [(module.name, module.tied_to) for module in tree.modules if module.tied_to]
    partners = dict(ties) | {other: name for name, other in ties}
    tied = next((name for name in modules if name in partners), "")
    if tied:
        raise _refused(f"{tied} is tied to {partners[tied]}, and in mlx-lm its update acts in both places", FUSE)


def _settings(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not valid JSON.", "Download or copy the adapter again.", FIELD) from error
    settings: dict[str, Any] = raw if isinstance(raw, dict) else {}
    kind = settings.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise _refused(f"it is no LoRA but whole layers (fine_tune_type {str(kind)[:40]!r})", FUSE)
    return settings


def _peft_config(settings: dict[str, Any], modules: Mapping[str, Mapping[str, TensorEntry]]) -> tuple[dict[str, Any], list[Finding]]:
    """Return PEFT's settings, and what to know of them: its factor is `lora_alpha / r`, so `lora_alpha` is scale times rank."""
    ranks = {name: _rank(name, parts) for name, parts in modules.items()}
    if not ranks:
        raise _refused("it holds no A and B", FUSE)
    r = Counter(ranks.values()).most_common(1)[0][0]
    scale, told = _scale(settings, r)
    others = {re.escape(name): rank for name, rank in ranks.items() if rank != r}
    base: Any = settings.get("model")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base if isinstance(base, str) else None,
        "r": r,
        "lora_alpha": scale * r,
        "rank_pattern": others,
        "alpha_pattern": {name: scale * rank for name, rank in others.items()},
        "lora_dropout": 0.0,
        "target_modules": sorted(target for name in modules for target in _targets(name)),
        "bias": "none",
        "use_dora": settings.get("fine_tune_type") == "dora" or settings.get("use_dora") is True,
        "inference_mode": True,
    }, told


def _scale(settings: dict[str, Any], r: int) -> tuple[float, list[Finding]]:
    """Return what mlx-lm multiplied updates by, and what is doubtful about it.

    Up to 0.13 it was `scale · alpha / rank`. Later ones wrote alpha down, up to 0.20, and made nothing of it. Up to 0.18 the settings say
    `lora_layers` for `num_layers`, and from 0.13 on whether they `use_dora`.
    """
    parameters: Any = settings.get("lora_parameters")
    scale, alpha = (_number(parameters.get(key)) if isinstance(parameters, dict) else None for key in ("scale", "alpha"))
    if scale is None:
        raise _refused(f"its {ADAPTER_CONFIG} names no scale", "Write lora_parameters.scale, as it was trained with, into it.")
    if alpha is None or alpha == r or "lora_layers" not in settings or "num_layers" in settings:
        return scale, []
    product = scale * alpha / r
    if "use_dora" not in settings:
        message = f"mlx-lm up to 0.12 wrote it, which multiplies updates by scale · alpha / rank: {product:g}."
        return product, [Finding("note", "mlx_alpha", message, "", FIELD)]
    message = (
        f"It was written by mlx-lm 0.13, in which updates are multiplied by scale · alpha / rank ({product:g}), or by 0.14 to 0.18, "
        f"in which they are by scale ({scale:g}); its settings are the same in both. {scale:g} was taken."
    )
    hint = f"Was it 0.13, write {product:g} as lora_parameters.scale into its {ADAPTER_CONFIG}, take alpha out, and import it again."
    return scale, [Finding("warning", "mlx_alpha", message, hint, FIELD)]


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _targets(name: str) -> Iterator[str]:
    switch = _SWITCH.fullmatch(name)
    yield f"{switch['owner']}.experts.{_expert_part(switch)}" if switch else name


def _expert_part(switch: re.Match[str]) -> str:
    """Return what transformers 4 called a matrix of an expert."""
    return _MIXTRAL[switch["which"]] if switch["owner"].endswith(".block_sparse_moe") else switch["which"]


def _rank(name: str, parts: Mapping[str, TensorEntry]) -> int:
    a, b = (list(parts[part].shape) if part in parts else [] for part in ("lora_a", "lora_b"))
    if _SWITCH.fullmatch(name):  # experts × r × in, and experts × out × r
        rank = a[1] if len(a) == len(b) == 3 and a[0] == b[0] and a[1] == b[2] else 0
    else:
        rank = a[1] if len(a) == len(b) == 2 and a[1] == b[0] else 0
    if not rank:
        raise _refused(f"{name[:80]} has no A and B that fit each other", "Download or copy the adapter again.")
    return rank


def _renamed(module: str, parts: Mapping[str, TensorEntry], *, dora: bool) -> Iterator[Renamed]:
    switch = _SWITCH.fullmatch(module)
    if switch:
        for expert in range(parts["lora_a"].shape[0]):
            name = f"{_PREFIX}{switch['owner']}.experts.{expert}.{_expert_part(switch)}"
            yield Renamed(f"{name}.lora_A.weight", f"{module}.lora_a", part=expert)
            yield Renamed(f"{name}.lora_B.weight", f"{module}.lora_b", part=expert)
        return
    is_embedding = module.endswith(("embed_tokens", "wte", "embed_in", "word_embeddings"))
    a, b = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A.weight", "lora_B.weight")
    yield Renamed(f"{_PREFIX}{module}.{a}", f"{module}.lora_a", turned=True)
    yield Renamed(f"{_PREFIX}{module}.{b}", f"{module}.lora_b", turned=True)
    if dora != ("m" in parts) or (dora and is_embedding):
        raise _refused(f"{module} is a DoRA of a kind that PEFT has not", FUSE)
    if dora:
        yield Renamed(f"{_PREFIX}{module}.lora_magnitude_vector", f"{module}.m")


def _refused(what: str, hint: str) -> InputError:
    return InputError(f"The adapter was written by mlx-lm, and cannot be taken over: {what}.", hint, FIELD)
