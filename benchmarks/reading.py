"""Rows and megabytes a second, and peak memory, of checking one large JSONL file of chat rows.

    python benchmarks/reading.py --gb 5

The file is written first, in the folder for temporary files or in `--folder`, and removed afterwards. The check runs in a child
process, whose memory is sampled 20 times a second; beside it stand the bare reading of the file's lines, and `json.loads` of each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

_WORDS = [
    "the",
    "a",
    "model",
    "data",
    "row",
    "answer",
    "question",
    "learns",
    "from",
    "of",
    "to",
    "is",
    "how",
    "why",
    "train",
    "step",
    "loss",
    "rank",
    "small",
    "large",
    "é",
    "“quoted”",
    "日本",
]


def write_rows(path: Path, size: int) -> int:
    """Write rows of chat of 2 to 6 turns, some of them long, until the file has `size` bytes; give their number."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(_WORDS, k=chance.choice((4, 12, 30, 120)))) for _ in range(2000)]
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            turns = [
                {"role": ("user", "assistant")[turn % 2], "content": f"{rows} {chance.choice(texts)}"}
                for turn in range(2 * chance.randint(1, 3))
            ]
            line = json.dumps({"messages": turns}, ensure_ascii=rows % 2 == 0) + "\n"
            written += len(line.encode())
            rows += 1
            file.write(line)
    return rows


def bare_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def bare_json(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if json.loads(line))


def check(path: Path) -> int:
    from lora_studio.core.settings import DataSettings
    from lora_studio.data.check import check_files

    found = check_files(DataSettings(train=(str(path),)))
    assert not found.bad_count
    return found.rows


def index(path: Path) -> int:
    from lora_studio.core.settings import DataSettings
    from lora_studio.data.readers.row_index import RowIndex

    rows = RowIndex(DataSettings(train=(str(path),)))
    while not rows.complete:
        rows.grow()
    return len(rows)


def search(path: Path) -> int:
    from lora_studio.core.settings import DataSettings
    from lora_studio.data.readers.row_index import RowIndex

    return sum(number is not None for number in RowIndex(DataSettings(train=(str(path),))).search("nowhere to be found"))


def _in_child(name: str, path: Path, answer: Connection) -> None:
    work = {"lines": bare_lines, "json": bare_json, "check": check, "index": index, "search": search}[name]
    start = time.perf_counter()
    rows = work(path)
    answer.send((rows, time.perf_counter() - start))


def measure(name: str, path: Path) -> tuple[int, float, int]:
    """Run one arm in a process of its own; give rows, seconds and the most bytes it held."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_in_child, args=(name, path, there))
    child.start()
    watched = psutil.Process(child.pid)
    peak = 0
    while not here.poll(0.05):
        if not child.is_alive():
            raise SystemExit(f"{name} died")
        peak = max(peak, watched.memory_info().rss)
    rows, seconds = here.recv()
    child.join()
    return rows, seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=5, help="size of the file in GB (10⁹ bytes)")
    parser.add_argument("--folder", type=Path, help="where to write it")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "rows.jsonl"
        rows = write_rows(path, int(arguments.gb * 1e9))
        size = path.stat().st_size
        print(f"{rows:,} rows, {size / 1e9:.2f} GB")
        for name in ("lines", "json", "check", "index", "search"):
            read, seconds, peak = measure(name, path)
            print(
                f"{name:>7}: {seconds:7.2f} s  {rows / seconds:12,.0f} rows/s  {size / seconds / 1e6:7.0f} MB/s  "
                f"peak {peak / 1e6:6.0f} MB  ({read:,})"
            )


if __name__ == "__main__":
    main()
