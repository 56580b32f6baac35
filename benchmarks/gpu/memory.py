"""The memory estimate against the bytes of real runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bases import random_weights
from benchmarks.gpu.call import Row, Setting
from benchmarks.gpu.speed import Bench
from lora_studio.core.control import TaskContext
from lora_studio.core.events import Step
from lora_studio.data.prepare import prepare_data
from lora_studio.inference.loaded_model import free_memory
from lora_studio.kernels.batches import make_batch
from lora_studio.models.load import load_tokenizer
from lora_studio.train.engine import train
from lora_studio.train.fitting import costs_of, largest_batch
from tests.planning.live_memory import step_bytes
from tests.tiny import save_tiny_model
from tests.train.helpers import new_run

_OF_A_STEP = ("gradients", "activations", "logits_and_loss")
_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("8 rows", {}),
    ("2 rows", {"training.per_device_train_batch_size": 2}),
    ("8 rows, full checkpointing", {"training.gradient_checkpointing": "full"}),
    ("8 rows, every second layer again", {"training.gradient_checkpointing": "layers"}),
    ("packed, 1 block", {"data.packing": True, "training.per_device_train_batch_size": 1}),
    ("packed, 4 blocks", {"data.packing": True, "training.per_device_train_batch_size": 4}),
    ("8 rows, float32", {"model.dtype": "float32", "training.compute_dtype": "float32"}),
    ("8 rows, float32 weights, bfloat16", {"model.dtype": "float32"}),
    ("8 rows, dropout", {"adapter.lora_dropout": 0.1}),
    ("8 rows, attention alone", {"adapter.target_modules": ("q_proj", "v_proj")}),
)


def estimate(setting: Setting) -> Iterator[Row]:
    """Estimate a step and take it, in ways that change what is held. On a processor the parts of a step alone can be measured."""
    bench = Bench(setting, "1b")
    offs: list[float] = []
    for way, changes in _WAYS[: 5 if setting.tiny else None]:
        config = bench.config(**changes)
        data = prepare_data(config.data, load_tokenizer(bench.folder), 0)
        budget = costs_of(config, bench.folder).memory(largest_batch(config, data.blocks))
        if bench.device.type == "cuda":
            measured, reserved = _measured(bench, config, way)
            estimated = budget.peak_bytes - budget.parts["runtime"]
        else:
            measured, reserved = _step_bytes(bench, config, data.blocks), 0
            estimated = sum(budget.parts[part] for part in _OF_A_STEP)
        offs.append(estimated / measured - 1)
        figures: dict[str, Any] = {"estimated MB": estimated / 1e6, "measured MB": measured / 1e6, "estimate off": offs[-1]}
        if reserved:
            figures["reserved MB"] = reserved / 1e6
        yield Row(way, figures)
    yield Row(
        "all ways",
        {"median off": statistics.median(map(abs, offs)), "most too low": min(offs), "most too high": max(offs)},
        note="goal: median 2%, never too low",
    )


def _measured(bench: Bench, config: Any, way: str) -> tuple[int, int]:
    """Train two steps from nothing held on the card; give the most bytes allocated, and reserved."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run = new_run(Path(bench.setting.folder) / "estimates" / way.replace(" ", "-"), config.replace({"training.max_steps": 2}))
    context = TaskContext()
    with random_weights():
        peak = max(event.peak_memory for event in train(context, str(run.path)) if isinstance(event, Step))
    reserved = torch.cuda.max_memory_reserved()
    context.warm.clear()
    free_memory()
    return peak, reserved


def _step_bytes(bench: Bench, config: Any, rows: Any) -> int:
    """Take the step's largest micro-batch on a processor and follow its allocations."""
    folder = bench.folder.parent / "tiny-weights"
    if not folder.is_dir():
        fields = json.loads((bench.folder / "config.json").read_text(encoding="utf-8"))
        names = (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
        )
        save_tiny_model(folder, "llama", **{name: fields[name] for name in names})
    longest = sorted(rows, key=lambda row: -row.input_ids.size)[: config.training.per_device_train_batch_size]
    return step_bytes(config, folder, make_batch(longest))
