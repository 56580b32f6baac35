"""All that needs a graphics card, as one call: `python -m benchmarks.gpu [--minutes 8] [--only NAME…] [--to FILE]`.

No downloads and no Qt: models are random weights of 1B and 8B Llama shape, and tiny ones of the tested families. Each check has a process
and a time limit of its own, the most important come first, and what they find is written as it comes: JSON lines to FILE, and at the end
one page beside it. Exit status 0 where nothing failed, 1 where something did, 2 where a package is missing or the call is wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.call import Call, Check, left_out
from benchmarks.gpu.checks import CHECKS, REQUIRED
from benchmarks.gpu.report import Report

_ASK_FOR_CUDA = "import torch; raise SystemExit(0 if torch.cuda.is_available() else 1)"


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8, help="for all checks together (8)")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these checks alone")
    parser.add_argument("--to", type=Path, default=Path("gpu-checks.jsonl"), metavar="FILE", help="where results go (gpu-checks.jsonl)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="sizes that try the checks themselves out")
    parser.add_argument("--list", action="store_true", help="say which checks there are and which are left out here")
    return parser.parse_args(arguments)


def chosen(names: list[str]) -> tuple[Check, ...]:
    """Return the checks of these names, in their own order; all for none."""
    unknown = sorted(set(names) - {check.name for check in CHECKS})
    if unknown:
        refuse(f"There is no check {', '.join(unknown)}. There are: {', '.join(check.name for check in CHECKS)}.")
    return tuple(check for check in CHECKS if not names or check.name in names)


def pick_device(wanted: str) -> str:
    """Return the device; whether there is a card is asked in a process of its own, since this one is to be forked from."""
    there = wanted != "cpu" and subprocess.run([sys.executable, "-c", _ASK_FOR_CUDA], check=False, capture_output=True).returncode == 0
    if wanted == "cuda" and not there:
        refuse("torch finds no CUDA device here. Take --device cpu --tiny to try the checks themselves out.")
    return "cuda" if there else "cpu"


def refuse(message: str) -> None:
    """Say what is wrong with the call and end."""
    sys.stderr.write(message + "\n")
    raise SystemExit(2)


def main(arguments: list[str]) -> int:
    """Run the checks; give the exit status."""
    options = parsed(arguments)
    checks = chosen(options.only)
    missing = [name for name in REQUIRED if find_spec(name) is None]
    if missing:
        refuse(f"Nothing can be checked without {', '.join(missing)}. benchmarks/gpu/README.md says what to carry here.")
    device = pick_device(options.device)
    if options.list:
        for check in checks:
            why = left_out(check, device)
            print(f"{check.name:14} {check.title}{f' (left out: {why})' if why else ''}")
        return 0
    call = Call(checks, device, options.tiny, options.minutes * 60)
    report = Report(options.to, call)
    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as folder:
        os.environ.update(
            {
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "TQDM_DISABLE": "1",
                "LORA_STUDIO_HOME": str(Path(folder) / "home"),
                # a check's process ends without tidying up, so that a hung thread cannot keep it
                "PYTHONWARNINGS": "ignore:resource_tracker",
                "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
            }
        )  # whether there is a card is asked without touching it
        if device == "cpu" and options.tiny:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # several only get into each other's way over tiny models
        results = call.run(Path(folder), report.found, report.ended)
    print()
    print(report.write_page(results))
    return int(any(result.state in ("failed", "broke", "hung") for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
