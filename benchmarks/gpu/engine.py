"""The studio's engine on the device: whether it waits, goes on after a stop and after a want of memory, and what it exports."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import traceback
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.gpu.call import Row, Setting
from benchmarks.gpu.common import (
    HALF,
    SINGLE,
    codes_of,
    events_of,
    farthest,
    losses_of,
    place,
    tiny_adapted,
    tiny_folder,
    tiny_run,
)
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled
from lora_studio.core.events import CheckpointSaved, Phase, RunEvent, Step
from lora_studio.core.runs import RunFolder
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.token_rows import TokenRow
from lora_studio.jobs.telemetry import MemorySampler
from lora_studio.kernels.batches import make_batch, trained_count
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import Stepper
from tests.tiny import ARCHITECTURES, write_chat_rows
from tests.train.helpers import new_run, run_config, token_rows
from tests.train.waits import Waits

_HALF_LOSS = 2e-2
_SINGLE_LOSS = 1e-4


def no_waiting(setting: Setting) -> Iterator[Row]:
    """Count what makes the host wait: in steps of each family, padded and packed, and in the engine between two log ticks."""
    device = place(setting)
    families = ("llama", "gemma3", "gpt2", "qwen3_moe") if setting.tiny else ARCHITECTURES
    for architecture, dtype in itertools.product(families, (SINGLE, HALF, torch.float16)):
        for way in ("padded", "packed"):
            model = tiny_adapted(setting, architecture, SINGLE if dtype == torch.float16 else dtype, dropout=0.1)
            stepper = Stepper(model, TrainingSettings(), Precision(device, dtype))
            _steps(stepper, 2, way)  # what is tried out once is tried here
            with _counting(device) as waits:
                _steps(stepper, 3, way)
                posted = stepper.post()
            told = len(posted.read()) == 5
            name = str(dtype).removeprefix("torch.")
            yield Row(f"{architecture}, {way}, in {name}", {"waits": len(waits)}, told and not waits, "; ".join(waits[:2]))
    yield from _engine_waits(setting, device)


def _steps(stepper: Stepper, count: int, way: str) -> None:
    rows = token_rows(4)
    if way == "packed":
        rows = [TokenRow(row.input_ids, row.trained, (3,)) for row in rows]
    everything = sum(trained_count(row) for row in rows)
    for step in range(count):
        for start in (0, 2):
            stepper.accumulate(make_batch(rows[start : start + 2]), everything, step)
        stepper.step(1e-3)


@contextlib.contextmanager
def _counting(device: torch.device) -> Generator[list[str]]:
    """Collect what makes the host wait in a block: on a card as the driver's own library sees it, on a processor by operation."""
    found: list[str] = []
    if device.type != "cuda":
        with Waits() as waits:
            yield found
        found += [f"{name} {count} times" for name, count in waits.found.items()]
        return
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_rest, **_options: found.append(f"{message} at {_own_line()}")  # type: ignore[assignment]
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _own_line() -> str:
    """Say which line of the studio is under way."""
    frames = [frame for frame in traceback.extract_stack() if "lora_studio" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"


def _engine_waits(setting: Setting, device: torch.device) -> Iterator[Row]:
    """Train 24 steps that are told of every eighth, and count what waits between two of these ticks."""
    run = tiny_run(
        setting,
        "waits",
        {
            "training.max_steps": 24,
            "training.logging_steps": 8,
            "training.num_train_epochs": 100,
            "training.save_steps": 1000,
            "training.per_device_train_batch_size": 2,
        },
    )
    waits: list[str] = []
    between: list[int] = []
    events = events_of(run)
    with contextlib.ExitStack() as held:
        for event in events:
            if isinstance(event, Phase) and event.name == "training" and device.type == "cuda":
                waits = held.enter_context(_counting(device))
            if isinstance(event, Step):
                between.append(len(waits))
                if event.step == 16:
                    held.close()  # the run's end is waited for
    yield Row(
        "the engine from its first step to its second log tick",
        {"ticks": len(between), "waits": between[1] if device.type == "cuda" else "counted in steps"},
        len(between) == 3 and between[1] == 0,
        "; ".join(dict.fromkeys(waits)),
    )


def resume(setting: Setting) -> Iterator[Row]:
    """Stop a run after three of six steps and resume it: losses and adapter are those of a run that went through."""
    place(setting)
    for way, changes in (("padded", {}), ("packed", {"data.packing": True, "training.per_device_train_batch_size": 1})):
        common = {"adapter.lora_dropout": 0.2, "training.num_train_epochs": 100, **changes}
        whole = tiny_run(setting, f"whole-{way}", common)
        wanted = losses_of(list(events_of(whole)))
        parted = tiny_run(setting, f"parted-{way}", common)
        before = _stopped_after(parted, 3)
        saved = [event for event in before if isinstance(event, CheckpointSaved)]
        after = list(events_of(parted, resume=True))
        found = [*losses_of(before), *losses_of(after)]
        off, weights_off = farthest(found, wanted), _adapters_apart(whole, parted)
        yield Row(
            way,
            {
                "losses": len(found),
                "checkpoints": len(saved),
                "largest loss off": off,
                "adapter off": weights_off,
                "bit for bit": off == 0 and weights_off == 0,
            },
            bool(saved) and off <= 1e-3 and weights_off <= 1e-2,
        )


def _stopped_after(run: RunFolder, step: int) -> list[RunEvent]:
    """Ask a run to stop once a step is told; give its events."""
    context = TaskContext()
    events: list[RunEvent] = []
    with contextlib.suppress(Cancelled):
        for event in events_of(run, context):
            events.append(event)
            if isinstance(event, Step) and event.step == step:
                context.control.stop()
    return events


def _adapters_apart(one: RunFolder, other: RunFolder) -> float:
    """Return how far the adapters of two runs are apart, by norm and relative."""
    from safetensors.torch import load_file

    some, others = (load_file(run.adapter_path / "adapter_model.safetensors") for run in (one, other))
    apart = sum(float((some[name].double() - others[name].double()).square().sum()) for name in others)
    return (apart / sum(float(tensor.double().square().sum()) for tensor in others.values())) ** 0.5


_ROWS_AT_ONCE = 16
_WORDS = 30_000
_ROOM = {"cuda": 1_500_000_000, "cpu": 550_000_000}
"""More than everything small needs, less than the logits of a whole micro-batch: what fails is a large allocation."""


def out_of_memory(setting: Setting) -> Iterator[Row]:
    """Leave a run too little memory for its micro-batch: it is halved, and the losses are those with memory to spare."""
    device = place(setting)
    changes = {
        "training.max_steps": 3,
        "training.num_train_epochs": 100,
        "training.per_device_train_batch_size": _ROWS_AT_ONCE,
        "data.max_length": 512,
        "data.train_on": "all",
        "training.gradient_checkpointing": "off",
        "adapter.modules_to_save": ("lm_head",),
    }  # a head that trains takes whole logits
    events: list[RunEvent] = []  # first, while there is no freed memory to be used again
    with contextlib.ExitStack() as held:
        for event in events_of(_larger_run(setting, "narrow", changes)):
            events.append(event)
            if isinstance(event, Phase) and event.name == "training":
                room = held.enter_context(_little_room(device))
    halved = codes_of(events).count("micro_batch_halved")
    wanted = losses_of(list(events_of(_larger_run(setting, "roomy", changes))))
    off = farthest(losses_of(events), wanted)
    half = torch.cuda.is_bf16_supported() if device.type == "cuda" else True
    yield Row(
        f"{_ROWS_AT_ONCE} rows at a time",
        {"room in MB": room / 1e6, "halved": halved, "largest loss off": off},
        halved > 0 and off <= (_HALF_LOSS if half else _SINGLE_LOSS),
    )


def _larger_run(setting: Setting, name: str, changes: dict[str, Any]) -> RunFolder:
    """Make a run whose logits outweigh everything else."""
    data = Path(setting.folder) / "long-rows.jsonl"
    if not data.is_file():
        write_chat_rows(data, _ROWS_AT_ONCE * 2)
        lines = data.read_text(encoding="utf-8").replace("Dear support", "Dear support, " * 20)
        data.write_text(lines, encoding="utf-8")
    config = run_config(
        tiny_folder(setting, "llama", vocab_size=_WORDS, max_position_embeddings=1024),
        data,
        {"training.sample_rows": 0, "data.eval_fraction": 0.0, "training.device": setting.device, **changes},
    )
    return new_run(Path(setting.folder) / "runs" / name, config)


@contextlib.contextmanager
def _little_room(device: torch.device) -> Generator[int]:
    """Leave so little memory beyond what is taken that a large micro-batch has no room; give the bytes left."""
    room = _ROOM[device.type]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total, device)
        try:
            yield room
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + room, before[1]))
    try:
        yield room
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def merge(setting: Setting) -> Iterator[Row]:
    """Train, merge, certify; then load the merged model on the device and hold it against base + adapter there."""
    from lora_studio.core.events import RunFinished
    from lora_studio.export.task import export

    device = place(setting)
    run = tiny_run(setting, "to-merge", {"training.learning_rate": 2e-2})
    list(events_of(run))
    for dtype in ("float32", "bfloat16"):
        to = Path(setting.folder) / f"merged-{dtype}"
        *_, last = export(TaskContext(), str(run.path), "merged", str(to), dtype)
        assert isinstance(last, RunFinished)
        yield Row(f"certificate in {dtype}", {"passed": bool(last.result["certificate"]["passed"])}, last.result["certificate"]["passed"])
        off, moved = _merged_off(run, to, device, getattr(torch, dtype))
        bound = 1e-4 if dtype == "float32" else 0.2 * moved + 5e-2
        yield Row(f"merged in {dtype} on {device.type}", {"largest logit off": off, "adapter's effect": moved}, off <= bound < moved)


@torch.no_grad()
def _merged_off(run: RunFolder, merged: Path, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Return the largest difference of the merged model's logits from base + adapter, and that of the base's from these."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    row = token_rows(1, longest=64)[0]
    ids = torch.from_numpy(row.input_ids).long().to(device)[None]
    base = AutoModelForCausalLM.from_pretrained(run.config.model.name_or_path, dtype=dtype).to(device).eval()
    plain = base(input_ids=ids).logits.float()
    adapted = PeftModel.from_pretrained(base, str(run.adapter_path)).eval()(input_ids=ids).logits.float()
    found = AutoModelForCausalLM.from_pretrained(merged, dtype=dtype).to(device).eval()(input_ids=ids).logits.float()
    return float((found - adapted).abs().max()), float((plain - adapted).abs().max())


def telemetry(setting: Setting) -> Iterator[Row]:
    """Hold what the sampler says of memory against the system, before and after a large allocation."""
    device = place(setting)
    size = 200_000_000 if setting.tiny else 2_000_000_000
    held = [torch.ones(8, device=device)]
    sampler = MemorySampler(lambda _event: None)
    before = sampler.look()
    held.append(torch.ones(size // 4, device=device))
    after = sampler.look()
    grown = after.resident - before.resident
    if device.type != "cuda":
        own = _resident_bytes()
        off = abs(after.resident - own) / own
        yield Row("resident set", {"sampler": after.resident, "/proc": own, "grown by": grown}, off <= 0.02 and grown >= 0.95 * size)
        return
    free, total = torch.cuda.mem_get_info()
    taken = (after.cuda_allocated or 0) - (before.cuda_allocated or 0)
    yield Row("allocated", {"sampler": after.cuda_allocated or 0, "grown by": taken}, size <= taken <= size + 4_000_000)
    yield Row(
        "reserved",
        {"sampler": after.cuda_reserved or 0, "torch": torch.cuda.memory_reserved()},
        after.cuda_reserved == torch.cuda.memory_reserved(),
    )
    used = after.device_used or 0
    yield Row(
        "the device by NVML",
        {"used": used, "cudaMemGetInfo": total - free, "total": after.device_total or 0, "its total": total},
        bool(used) and abs(used - (total - free)) <= 0.01 * total and abs((after.device_total or 0) - total) <= 0.05 * total,
        "NVML counts what the driver keeps for itself",
    )
    yield Row("load and temperature", {"load": str(after.device_utilization), "temperature": str(after.device_temperature)})


def _resident_bytes() -> int:
    """Read the resident set from where the kernel tells it."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return psutil.Process().memory_info().rss
