"""A merge against copying the same bytes with fsync (goal 6: at most 1.25 times the time, three times the largest tensor of memory).

    python -m benchmarks.merge 5 1b [FOLDER]

Arguments: repeats, a shape of `benchmarks.models`, a folder on the disk to be measured. The model is made there with random weights in
bfloat16, in shards, and removed afterwards. Arms are interleaved; each runs in a process of its own, whose memory is that process's peak
over what it held before the first tensor. The certificate is another matter and is not made here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.models import SHAPES, random_model

_MB = 1e6


def make_base(folder: Path, shape: str) -> Path:
    """Write a Llama of a shape with random weights, in shards of 500 MB."""
    import torch
    from transformers import LlamaForCausalLM

    from lora_studio.core.control import TaskContext
    from lora_studio.models.prepare import prepare
    from lora_studio.models.sources import find_model

    list(prepare(TaskContext(), "starter"))
    starter = find_model("starter").path
    assert starter is not None
    random_model(shape, starter, folder)
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="500MB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    return folder


def make_adapter(base: Path, folder: Path) -> Path:
    """Write an adapter of rank 16 on all linear layers, with random A and B."""
    from peft import LoraConfig, get_peft_model

    from lora_studio.models.inspect import empty_model

    model = get_peft_model(empty_model(base), LoraConfig(r=16, target_modules="all-linear"), low_cpu_mem_usage=True)
    _write_random(model, folder)
    return folder


def _write_random(model: object, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {
        name.replace(".default", ""): torch.randn(parameter.shape) * 0.01
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }  # type: ignore[attr-defined]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config["default"].save_pretrained(str(folder))  # type: ignore[attr-defined]


def copy(base: Path, _adapter: Path, target: Path) -> tuple[float, float]:
    """Copy the weights, and have them on the disk; seconds, and no memory to speak of."""
    from lora_studio.core.files import sync_tree

    began = time.perf_counter()
    target.mkdir()
    for path in base.glob("*.safetensors"):
        shutil.copyfile(path, target / path.name)
    sync_tree(target)
    return time.perf_counter() - began, 0.0


def merge(base: Path, adapter: Path, target: Path, dtype: str | None = None) -> tuple[float, float]:
    """Merge as an export does, and have it on the disk; seconds, and bytes held at the peak beyond what stood there before."""
    from lora_studio.core.files import whole_folder
    from lora_studio.export.merge.changes import Changes
    from lora_studio.export.merge.merge import merge_into
    from lora_studio.export.merge.merge_plan import MergePlan

    plan = MergePlan.of(base, Changes.of(base, adapter), dtype)
    before = _begin_peak()
    began = time.perf_counter()
    with whole_folder(target) as folder:
        for _ in merge_into(plan, folder):
            pass
    seconds = time.perf_counter() - began
    return seconds, _peak() - before


def _begin_peak() -> float:
    """Begin to count this process's peak anew, and give what it holds now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024.0


def _child(sender: Connection, arm: Callable[..., tuple[float, float]], arguments: tuple[object, ...]) -> None:
    sender.send(arm(*arguments))


def measured(arm: Callable[..., tuple[float, float]], *arguments: object) -> tuple[float, float]:
    """Run an arm in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, arm, arguments))
    child.start()
    found: tuple[float, float] = receiver.recv()
    child.join()
    return found


def main(repeats: int, shape: str, root: Path) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        base = make_base(folder / "base", shape)
        adapter = make_adapter(base, folder / "adapter")
        weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
        hidden, intermediate, *_ = SHAPES[shape]
        largest = hidden * intermediate * 4
        embedding = json.loads((base / "config.json").read_text())["vocab_size"] * hidden * 4
        times: dict[str, list[float]] = {"copy": [], "merge": []}
        peaks: list[float] = []
        os.sync()
        for number in range(repeats):
            for arm in ("copy", "merge") if number % 2 else ("merge", "copy"):
                seconds, peak = measured({"copy": copy, "merge": merge}[arm], base, adapter, folder / "target")
                shutil.rmtree(folder / "target")
                os.sync()  # what one arm left to be written is not the next one's to wait for
                times[arm].append(seconds)
                if arm == "merge":
                    peaks.append(peak)
        ratios = sorted(one / other for one, other in zip(times["merge"], times["copy"], strict=True))
        print(f"{shape}: {weights / 1e9:.2f} GB in {len(list(base.glob('*.safetensors')))} shards, {repeats} repeats")
        print(
            f"copy {statistics.median(times['copy']):.2f} s, merge {statistics.median(times['merge']):.2f} s: "
            f"{statistics.median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
        print(
            f"memory added at the peak {max(peaks) / _MB:.0f} MB; largest adapted tensor in float32 {largest / _MB:.0f} MB, "
            f"largest of all {max(largest, embedding) / _MB:.0f} MB: {max(peaks) / max(largest, embedding):.2f} times"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.gettempdir()))
