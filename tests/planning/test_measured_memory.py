"""The memory estimate against what torch's allocator hands out in a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_studio.core.config import RunConfig
from lora_studio.data.token_rows import TokenRow
from lora_studio.kernels.batches import Batch, make_batch
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import inspect_model
from lora_studio.planning.activations import Workload
from lora_studio.planning.budget import estimate_memory
from lora_studio.planning.device import Device
from tests.planning.live_memory import step_bytes
from tests.tiny import save_tiny_model

ROWS, LENGTH = 2, 256
OF_A_STEP = ("gradients", "activations", "logits_and_loss")
CPU = Device("cpu", "", 0, quick_bfloat16=True)
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
}
SHAPES: Mapping[str, dict[str, Any]] = {
    "llama": {**SHAPE, "num_key_value_heads": 3},
    "qwen3": {**SHAPE, "num_key_value_heads": 3, "head_dim": 32},
    "gpt_neox": SHAPE,
    "gpt2": {
        "n_embd": 192,
        "n_layer": 5,
        "n_head": 6,
        "vocab_size": 1024,
        "n_positions": 512,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    },
}
HALVES = {"model.dtype": "bfloat16", "training.compute_dtype": "bfloat16"}
MIXED = {"training.compute_dtype": "bfloat16"}
DROPOUT = {"adapter.lora_dropout": 0.1}
NF4 = {"model.quantization": "nf4"}
FULL = {"training.gradient_checkpointing": "full"}
EVERY_SECOND = {"training.gradient_checkpointing": "layers"}
EVERY_THIRD = {"training.gradient_checkpointing": "layers", "training.gradient_checkpointing_every": 3}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_tiny_model(tmp_path_factory.mktemp("medium") / architecture, architecture, **SHAPES[architecture])
        return made[architecture]

    return folder


def batch() -> Batch:
    numbers = np.random.default_rng(0)
    trained = np.arange(LENGTH) >= LENGTH // 2
    return make_batch([TokenRow(numbers.integers(5, 300, LENGTH).astype(np.int32), trained) for _ in range(ROWS)])


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {}),
        ("llama", EVERY_THIRD),
        ("llama", EVERY_SECOND),
        ("llama", FULL),
        ("llama", HALVES | FULL),
        ("llama", MIXED),
        ("llama", MIXED | FULL),
        ("llama", DROPOUT),
        ("llama", DROPOUT | HALVES | EVERY_SECOND),
        ("llama", NF4 | MIXED),
        ("llama", NF4 | HALVES | FULL),
        ("llama", {"adapter.target_modules": ("q_proj", "v_proj")}),
        ("llama", {"adapter.layers_to_transform": (3, 4), "adapter.target_modules": ("q_proj", "down_proj")}),
        ("qwen3", {}),
        ("qwen3", FULL),
        ("gpt2", {}),
        ("gpt2", FULL),
        ("gpt_neox", {}),
        ("gpt_neox", EVERY_SECOND),
    ],
)
def test_a_step_is_estimated_within_a_few_percent_and_hardly_ever_too_low(
    model_of: Callable[[str], Path],
    architecture: str,
    changes: dict[str, object],
) -> None:
    folder = model_of(architecture)
    config = RunConfig().replace(
        {
            "model.dtype": "float32",
            "training.compute_dtype": "float32",
            "training.gradient_checkpointing": "off",
            "adapter.target_modules": "all-linear",
            "training.per_device_train_batch_size": ROWS,
            **changes,
        }
    )
    workload = Workload(ROWS, LENGTH, len(batch().targets))
    parts = estimate_memory(config, read_facts(folder), inspect_model(folder), workload=workload, device=CPU).parts
    ratio = sum(parts[part] for part in OF_A_STEP) / step_bytes(config, folder, batch())
    assert 0.97 < ratio < 1.09
