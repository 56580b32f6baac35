"""Small runs for the tests: a model, rows and settings of a few thousand numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.events import RunEvent, Step
from lora_studio.core.runs import RunFolder
from lora_studio.data.token_rows import TokenRow
from lora_studio.train.engine import train
from tests.tiny import VOCABULARY

TARGETS: Mapping[str, Sequence[str]] = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "qwen3_moe": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def targets(architecture: str) -> list[str]:
    return list(TARGETS.get(architecture, LLAMA_TARGETS))


def token_rows(count: int, seed: int = 0, longest: int = 24) -> list[TokenRow]:
    """Rows of random tokens, the latter part of each trained."""
    numbers = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(numbers.integers(6, longest))
        ids = numbers.integers(5, VOCABULARY, length).astype(np.int32)
        rows.append(TokenRow(ids, np.arange(length) >= length // 2))
    return rows


def adapted_model(folder: Path, architecture: str = "llama", dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> PeftModel:
    """The tiny model with an adapter whose B is not zero."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(0)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=4,
            lora_alpha=8,
            lora_dropout=dropout,
            target_modules=targets(architecture),
            task_type="CAUSAL_LM",
            fan_in_fan_out=architecture == "gpt2",
        ),
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted


def run_config(model: Path, data: Path, changes: Mapping[str, object] | None = None) -> RunConfig:
    """A run of a few quick steps."""
    return RunConfig().replace(
        {
            "name": "tiny",
            "model.name_or_path": str(model),
            "data.train": (str(data),),
            "data.max_length": 128,
            "data.eval_fraction": 0.2,
            "adapter.r": 4,
            "adapter.lora_alpha": 8,
            "adapter.target_modules": ("q_proj", "v_proj"),
            "training.learning_rate": 5e-3,
            "training.per_device_train_batch_size": 4,
            "training.num_train_epochs": 2,
            "training.sample_rows": 2,
            "training.sample_max_new_tokens": 6,
            "training.device": "cpu",
            **(changes or {}),
        }
    )


def new_run(path: Path, config: RunConfig) -> RunFolder:
    path.mkdir(parents=True)
    write_config(path / "run.yaml", config)
    return RunFolder.open(path)


def all_events(run: RunFolder, resume: bool = False, context: TaskContext | None = None) -> list[RunEvent]:
    return list(train(context or TaskContext(), str(run.path), resume))


def losses(events: Sequence[RunEvent]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]
