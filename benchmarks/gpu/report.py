"""What a call found, as JSON lines while it goes on and as one page at its end."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.call import Call, Check, Result, Row

_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "peft",
    "accelerate",
    "trl",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
    "bitsandbytes",
    "nvidia-ml-py",
    "PySide6-Essentials",
)
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader")
_BAD = ("failed", "broke", "hung")


def machine() -> dict[str, Any]:
    """Describe the machine and what is installed, without touching the device."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cards": _cards(),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _cards() -> list[str]:
    try:
        done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


class Report:
    """Writes what comes to a file, a JSON document a line, and says it on standard output."""

    def __init__(self, path: Path, call: Call) -> None:
        """Begin the file at `path` anew."""
        self._path = path
        self._machine = machine()
        self._call = call
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
        self._write({"machine": self._machine, "device": call.device, "tiny": call.tiny, "minutes": call.seconds / 60})

    @property
    def page_path(self) -> Path:
        """Where the page goes."""
        return self._path.with_suffix(".md")

    def found(self, check: Check, row: Row) -> None:
        """Take in a row."""
        self._write({"check": check.name, **asdict(row)})
        print(f"  {'FAILED ' if row.passed is False else ''}{row.what}: {said(row.figures)} {row.note}".rstrip(), flush=True)

    def ended(self, result: Result) -> None:
        """Take in a result."""
        self._write({"check": result.check.name, "state": result.state, "seconds": round(result.seconds, 2), "said": result.said})
        why = f": {result.said}" if result.state == "left out" else ""
        print(f"{result.check.name}: {result.state} ({result.seconds:.1f} s){why}", flush=True)
        if result.state in _BAD and result.said:
            print(result.said, flush=True)

    def write_page(self, results: Sequence[Result]) -> str:
        """Write the page beside the file, and give it."""
        text = page(self._machine, self._call, results)
        self.page_path.write_text(text, encoding="utf-8")
        return text

    def _write(self, document: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a machine that is taken away leaves what it found


def said(figures: Mapping[str, Any]) -> str:
    """Put figures into a line."""
    return ", ".join(f"{name} {_number(value)}" for name, value in figures.items())


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.2e}"


def page(machine: Mapping[str, Any], call: Call, results: Sequence[Result]) -> str:
    """Make the page: the machine, what passed and what did not, what was found, and what broke with its traceback."""
    counts = Counter(result.state for result in results)
    seconds = sum(result.seconds for result in results)
    lines = [
        f"# Checks on {call.device}{', tiny' if call.tiny else ''}, {machine['date']}",
        "",
        f"{machine['platform']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}",
        "",
        *(f"- {card}" for card in machine["cards"]),
        f"- {', '.join(f'{name} {number}' for name, number in machine['versions'].items())}",
        "",
        f"**{', '.join(f'{number} {state}' for state, number in counts.items())}** in {seconds:.0f} s",
        "",
        "| check | what it finds out | came to | s |",
        "|---|---|---|---|",
        *(f"| {result.check.name} | {result.check.title} | {_state(result)} | {result.seconds:.1f} |" for result in results),
        "",
    ]
    for result in results:
        if result.rows:
            lines += [f"## {result.check.name}", "", *(_line(row) for row in result.rows), ""]
        if result.state in _BAD and result.said:
            lines += [f"### {result.check.name} {result.state}", "", "```", result.said.rstrip(), "```", ""]
    return "\n".join(lines)


def _state(result: Result) -> str:
    if result.state == "left out":
        return f"left out: {result.said}"
    return f"**{result.state}**" if result.state in _BAD else result.state


def _line(row: Row) -> str:
    mark = {True: "ok", False: "**failed**", None: ""}[row.passed]
    parts = (part for part in (mark, said(row.figures), row.note) if part)
    return f"- {row.what}: {'; '.join(parts)}"
