"""What the studio's LoRA layer spares against PEFT's: `python -m benchmarks.lora_layer [REPEATS] [THREADS]`.

Forward and backward passes of the starter model, and of two layers of a larger one with random weights, with an adapter on all linears
and one batch of rows of one length. A mean of squares of the last hidden states stands for the loss, so that no head hides what is
measured. Both arms are the same model, the studio's layer switched on and off, taking turns; PEFT's arm spares its input cast, as the
engine does. Ratios are medians over the pairs, with the smallest and the largest. Kept bytes are those of the storages that autograd
holds at the end of the forward pass, weights left out. With one thread, time is the processor's: other programs do not disturb it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.paths import HOME_VARIABLE
from lora_studio.models.prepare import prepare
from lora_studio.models.sources import find_model


@dataclass(frozen=True)
class Shape:
    """What is measured: a model's sizes, how it is held and computed, and the batch."""

    title: str
    r: int
    rows: int
    length: int
    base: str = "bfloat16"
    sizes: tuple[tuple[str, int], ...] = ()


LARGER = (
    ("hidden_size", 2048),
    ("intermediate_size", 8192),
    ("num_attention_heads", 32),
    ("num_key_value_heads", 8),
    ("num_hidden_layers", 2),
    ("vocab_size", 512),
)
SHAPES = (
    Shape("starter, r 8, 1 x 64", 8, 1, 64),
    Shape("starter, r 8, 1 x 256", 8, 1, 256),
    Shape("starter, r 8, 4 x 256", 8, 4, 256),
    Shape("starter, r 64, 1 x 256", 64, 1, 256),
    Shape("starter, r 8, 1 x 256, in float32", 8, 1, 256, "float32"),
    Shape("hidden 2048, r 16, 2 x 512", 16, 2, 512, sizes=LARGER),
    Shape("hidden 2048, r 128, 2 x 512", 128, 2, 512, sizes=LARGER),
)


def adapted(shape: Shape) -> Any:
    """Return the model with an adapter on all linears, B not zero."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lora_studio.adapters.inject import inject
    from lora_studio.core.settings import AdapterSettings

    dtype = getattr(torch, shape.base)
    if shape.sizes:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **dict(shape.sizes)), dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(find_model("starter").path), dtype=dtype)
    model.requires_grad_(False)
    fields = {"r": shape.r, "lora_alpha": 2 * shape.r, "lora_dropout": 0.0, "target_modules": "all-linear"}
    found = inject(model, AdapterSettings.model_validate(fields), seed=0)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return found.train()


def passes(model: Any, ids: Any, lean: bool) -> tuple[float, int, float]:
    """Go forwards and backwards once; give the seconds, the bytes kept in between and the gradient's norm."""
    import torch

    from lora_studio.kernels.fused_lora import fused_lora_layers
    from lora_studio.train.precision import Precision

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    dtype = next(model.parameters()).dtype
    precision = Precision(ids.device, dtype)
    decoder = model.get_base_model().model
    with precision.fused_inputs(model), fused_lora_layers(model) if lean else contextlib.nullcontext():
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        began = clock()
        with precision.autocast(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = decoder(input_ids=ids, use_cache=False).last_hidden_state.float().square().mean()
        loss.backward()
        seconds = clock() - began
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    model.zero_grad(set_to_none=True)
    return seconds, sum(kept.values()), float(norm)


def measure(shape: Shape, repeats: int) -> None:
    """Print one shape's line."""
    import torch

    torch.manual_seed(0)
    model = adapted(shape)
    ids = torch.randint(5, 500, (shape.rows, shape.length))
    for lean in (False, True):
        passes(model, ids, lean)
    pairs = []
    for turn in range(repeats):
        order = (False, True) if turn % 2 else (True, False)
        taken = {lean: passes(model, ids, lean) for lean in order}
        pairs.append((taken[False], taken[True]))
    ratios = [own[0] / peft[0] for peft, own in pairs]
    (_, kept, norm), (_, own_kept, own_norm) = pairs[0]
    milliseconds = statistics.median(peft[0] for peft, _ in pairs) * 1e3
    print(
        f"{shape.title:32} {milliseconds:9.0f} {statistics.median(ratios):7.3f} {min(ratios):6.3f} {max(ratios):6.3f} "
        f"{kept / 1e6:8.1f} {own_kept / kept:6.3f} {abs(own_norm / norm - 1):9.1e}",
        flush=True,
    )


def main(repeats: int, threads: int) -> None:
    import_engine()
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as home:
        os.environ[HOME_VARIABLE] = home
        list(prepare(TaskContext(), "starter"))
        print(f"{platform.platform()}, {os.cpu_count()} cores, {threads} threads, {repeats} repeats")
        print(f"{'passes':32} {'PEFT ms':>9} {'ours ÷':>7} {'min':>6} {'max':>6} {'kept MB':>8} {'ours ÷':>6} {'norm off':>9}")
        for shape in SHAPES:
            measure(shape, repeats)


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [7, os.cpu_count() or 1][len(given) :]))
