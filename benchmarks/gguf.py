"""A model to GGUF in f16 against copying the same bytes with fsync (goal 7: at most 1.5 times), with llama.cpp's own converter beside it.

    python -m benchmarks.gguf 5 1b [FOLDER]

Arguments as for `benchmarks.merge`. The settings and the vocabulary take the converter a few seconds whatever the model's size: they are
told apart from the weights.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.merge import copy, make_base


def ours(base: Path, target: Path) -> tuple[float, float]:
    """Write as an export does, and have it on the disk; seconds in all, and those of settings and vocabulary."""
    from lora_studio.core.control import TaskContext
    from lora_studio.core.files import sync_file
    from lora_studio.export.gguf.model import write_gguf_model

    began, header = time.perf_counter(), 0.0
    for event in write_gguf_model(TaskContext(), base, target, "f16"):
        if not header and getattr(event, "message", "") == "Writing the weights":
            header = time.perf_counter() - began
    sync_file(target)
    return time.perf_counter() - began, header


def theirs(base: Path, target: Path) -> float:
    """Have llama.cpp's converter do all of it; seconds."""
    from lora_studio.core.control import TaskContext
    from lora_studio.core.files import sync_file
    from lora_studio.export.gguf.llama_cpp import convert, require_converter

    began = time.perf_counter()
    for _ in convert(TaskContext(), require_converter(), base, target, "f16"):
        pass
    sync_file(target)
    return time.perf_counter() - began


def main(repeats: int, shape: str, root: Path) -> None:
    """Measure, and print a table."""
    from lora_studio.core.control import TaskContext
    from lora_studio.export.gguf.llama_cpp import fetch_converter

    list(fetch_converter(TaskContext()))
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        base = make_base(folder / "base", shape)
        weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
        times: dict[str, list[float]] = {"copy": [], "ours": [], "header": [], "theirs": []}
        for number in range(repeats):
            for arm in ("copy", "ours", "theirs") if number % 2 else ("theirs", "ours", "copy"):
                os.sync()
                if arm == "copy":
                    times[arm].append(copy(base, base, folder / "target")[0])
                    shutil.rmtree(folder / "target")
                elif arm == "ours":
                    whole, header = ours(base, folder / "target.gguf")
                    times["ours"].append(whole)
                    times["header"].append(header)
                else:
                    times[arm].append(theirs(base, folder / "target.gguf"))
                (folder / "target.gguf").unlink(missing_ok=True)
        print(f"{shape}: {weights / 1e9:.2f} GB, {repeats} repeats; copy {statistics.median(times['copy']):.2f} s")
        print("| arm | seconds | times the copy | least | most |\n|---|---|---|---|---|")
        alone = [whole - header for whole, header in zip(times["ours"], times["header"], strict=True)]
        for arm, taken in (("studio", times["ours"]), ("its weights alone", alone), ("llama.cpp's converter", times["theirs"])):
            ratios = sorted(one / other for one, other in zip(taken, times["copy"], strict=True))
            print(f"| {arm} | {statistics.median(taken):.2f} | {statistics.median(ratios):.2f} | {ratios[0]:.2f} | {ratios[-1]:.2f} |")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.gettempdir()))
