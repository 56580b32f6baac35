"""PEFT adapter folders written by hand: no torch, and whatever is wrong with them is on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "somebody/tiny",
    "revision": None,
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "v_proj"],
    "modules_to_save": None,
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "auto_mapping": None,
    "inference_mode": True,
}
LLAMA_SHAPES = {"q_proj": (32, 32), "v_proj": (16, 32)}
"""Rows and columns of the tiny llama's weights."""


def tensors_of(rank: int = 4, layers: int = 2, **shapes: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return A and B of the tiny llama's modules, or of other ones of given rows and columns."""
    made: dict[str, np.ndarray] = {}
    for layer in range(layers):
        for module, (rows, columns) in (shapes or LLAMA_SHAPES).items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            made[f"{name}.lora_A.weight"] = np.full((rank, columns), 0.01, dtype=np.float32)
            made[f"{name}.lora_B.weight"] = np.full((rows, rank), 0.01, dtype=np.float32)
    return made


def write_adapter(folder: Path, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """Write an adapter for the tiny llama; changes are to its config, None takes a key away."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None or key not in changes}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors or tensors_of(changes.get("r", 4)), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def save_image_adapter(folder: Path, base: Path) -> Path:
    """Write an adapter made with Qwen3.5's class with images, on a layer of text and one of images; `base` gets that model's config."""
    from tests.odd_families import family_config

    config = family_config("qwen3_5")
    config.architectures = ["Qwen3_5ForConditionalGeneration"]
    config.save_pretrained(base)
    names = {"model.language_model.layers.1.mlp.down_proj": (32, 48), "model.visual.blocks.0.attn.qkv": (48, 16)}
    tensors: dict[str, np.ndarray] = {}
    for name, (rows, columns) in names.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.full((4, columns), 0.01, dtype=np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.full((rows, 4), 0.01, dtype=np.float32)
    return write_adapter(folder, tensors, base_model_name_or_path=str(base), target_modules=["down_proj", "qkv"])
