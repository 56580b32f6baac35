"""Other programs, each in an environment of its own: what is installed, pinned, and what is run in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.consumers import say

_INSIDE = Path(__file__).parent / "inside"
TORCH = ("torch==2.13.0", "numpy<2.4")
_EVERY = "every position; no tokenizer"
_AND_TOKENIZER = "every position; of merged models the tokenizer too: a text, a chat, the end token"
_BESIDE = ("sentencepiece==0.2.2", "protobuf==7.36.2")


@dataclass(frozen=True)
class Reader:
    """One program that reads what we write.

    Attributes:
        name: What one calls it on the command line.
        packages: What is installed, pinned.
        script: What runs in its environment, of `inside/`.
        programs: What the table calls it, by form: merged, adapter.
        compares: What of its answers is held against ours, as the docs say it.
        torch: Whether it needs torch, which all readers share one copy of.
        without: What its packages ask for that does not go with that copy, and is taken off again.
    """

    name: str
    packages: tuple[str, ...]
    script: str
    programs: dict[str, str]
    compares: str = _EVERY
    torch: bool = True
    without: tuple[str, ...] = ()


READERS = (
    Reader(
        "transformers-4.51",
        ("transformers==4.51.3", "peft==0.15.2", *_BESIDE),
        "read_transformers.py",
        {"merged": "transformers 4.51.3", "adapter": "peft 0.15.2 on transformers 4.51.3"},
        _AND_TOKENIZER,
    ),
    Reader(
        "transformers-4.57",
        ("transformers==4.57.6", "peft==0.18.1", *_BESIDE),
        "read_transformers.py",
        {"merged": "transformers 4.57.6", "adapter": "peft 0.18.1 on transformers 4.57.6"},
        _AND_TOKENIZER,
    ),
    Reader(
        "transformers-5.0",
        ("transformers==5.0.0", "peft==0.18.1", *_BESIDE),
        "read_transformers.py",
        {"merged": "transformers 5.0.0", "adapter": "peft 0.18.1 on transformers 5.0.0"},
        _AND_TOKENIZER,
    ),
    Reader(
        "peft-0.13",
        ("transformers==4.51.3", "peft==0.13.2", *_BESIDE),
        "read_transformers.py",
        {"adapter": "peft 0.13.2 on transformers 4.51.3"},
    ),
    Reader(
        "mlx-lm",
        ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2"),
        "read_mlx.py",
        {"merged": "mlx-lm 0.32.2", "adapter": "mlx-lm 0.32.2"},
        "every position; of merged models the tokens of a text too",
        torch=False,
    ),
    Reader("ctranslate2", ("ctranslate2==4.8.5", "transformers==4.57.6", *_BESIDE), "read_ctranslate2.py", {"merged": "ctranslate2 4.8.5"}),
    Reader(
        "onnxruntime-genai",
        ("onnxruntime-genai==0.18.0", "onnxruntime==1.32.0", "onnx_ir==1.1.0", "transformers==5.24.0"),
        "read_genai.py",
        {"merged": "onnxruntime-genai 0.18.0"},
        "the last position alone; no tokenizer",
    ),
    Reader(
        "optimum-intel",
        ("optimum-intel==2.2.0", "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0", "nncf==3.4.0", "transformers==4.57.6", *_BESIDE),
        "read_optimum.py",
        {"merged": "optimum-intel 2.2.0 on transformers 4.57.6"},
        without=("torchvision",),
    ),
    Reader(
        "lm_eval",
        ("lm_eval==0.4.13", "transformers==4.57.6", "peft==0.18.1", "accelerate==1.15.0", *_BESIDE),
        "read_lm_eval.py",
        {"merged": "lm_eval 0.4.13", "adapter": "lm_eval 0.4.13 with peft 0.18.1"},
        "the log-likelihood of the last four tokens, summed, and whether they are the likeliest; no tokenizer",
    ),
)


def read_in(reader: Reader, folder: Path, subjects: Path, torch: Path) -> list[dict[str, Any]]:
    """Make a reader's environment in a folder, have it read all subjects, and give what came of it; the environment goes again.

    Args:
        reader: Which.
        folder: A temporary folder.
        subjects: `subjects.json`.
        torch: Where torch lies, or is put the first time.
    """
    say(f"installing {', '.join(reader.packages)}")
    place = folder / reader.name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    if reader.torch:
        share_torch(place, torch)
    _pip("--python", str(python), "install", "-q", *reader.packages, *(TORCH if reader.torch else ()))
    if reader.without:
        _pip("--python", str(python), "uninstall", "-q", "-y", *reader.without)
    results = folder / f"{reader.name}.json"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    say(f"reading in {reader.name}")
    with (folder / f"{reader.name}.log").open("w") as log:
        command = [str(python), str(_INSIDE / reader.script), str(subjects), str(results), *reader.programs]
        ended = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    shutil.rmtree(place)
    if ended.returncode:
        raise SystemExit(f"{reader.name} did not come to an end: {(folder / f'{reader.name}.log').read_text()[-2000:]}")
    told: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    return [{**found, "program": reader.programs[found["form"]], "versions": told["versions"]} for found in told["results"]]


def share_torch(place: Path, torch: Path) -> None:
    """Let an environment see torch, which is installed once for all of them."""
    if not torch.is_dir():
        _pip("install", "-q", "--target", str(torch), *TORCH)
    (next((place / "lib").iterdir()) / "site-packages" / "torch.pth").write_text(f"{torch}\n", encoding="utf-8")


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)
