"""Run part of the tests with the oldest releases that pyproject.toml declares: `.venv/bin/python -m tests.floors`.

The oldest releases, with what they need in older releases themselves, go into an environment that lies over `.venv` and is thrown away.
The floors of torch (gigabytes to fetch, of a build that few indexes keep) and of the window's libraries are not tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
NOT_TRIED = (
    "torch",
    "PySide6-Essentials",
    "pyqtgraph",
    "tokenizers",
    "numpy",
    "pyarrow",
    "tqdm",
    "annotated-types",
)  # the others settle which

# What rests on transformers, peft and the libraries beside them, in less than two minutes on two cores.
TESTS = (
    "tests/core/test_config.py",
    *(f"tests/models/test_{name}.py" for name in ("convert", "gguf_tokenizer", "inspect", "load", "download")),
    "tests/data/templates/test_template.py::test_a_template_renders_as_in_transformers",
    "tests/data/readers/test_read_files.py::test_older_encodings_are_offered_by_what_fits_and_read_when_set",
    "tests/data/test_prepare.py",
    "tests/data/readers/test_hub_dataset.py",
    *(f"tests/adapters/test_{name}.py" for name in ("inject", "resolve_oracle", "targets_oracle", "saved_adapter")),
    "tests/planning/test_plan.py",
    *(f"tests/kernels/test_{name}.py" for name in ("fused_lora", "fused_swiglu", "packed", "head")),
    *(f"tests/inference/test_{name}.py" for name in ("loaded_model", "chat")),
    *(f"tests/train/test_{name}.py" for name in ("stepper", "micro_batcher")),
    *(
        f"tests/train/test_trajectory.py::test_splitting_a_batch_changes_nothing_but_rounding[{family}]"
        for family in ("llama", "gemma3", "qwen3_moe", "gpt2")
    ),
    "tests/train/test_engine.py::test_the_loss_falls_by_a_fifth_and_plain_peft_loads_the_adapter",
    "tests/train/test_engine.py::test_a_second_run_on_the_warm_base_equals_the_first",
    "tests/export/test_export.py",
    "tests/export/merge/test_merge.py",
    "tests/export/imports/test_importer.py",
    "tests/export/push/test_push.py",
    "tests/cli/test_headless.py",
)
LEFT_OUT = """Left out here, and run with the newest releases alone:
  tests/gui, tests/end_to_end: the window's libraries are not tried
  tests/jobs, tests/core but for settings: no library beneath them but pydantic
  tests of GGUF export, certificates, arithmetic and quantized bases: they stand on the merge and on other programs
  tests of memory, flops and the rest of train and data: they take minutes, and stand on what is tried here"""

# pytest takes plugins of every installation in reach, those of the newer releases too: these are named, and Qt's is not among them.
PLUGINS = ("-p", "xdist", "-p", "pytest_timeout")
OPTIONS = ("-n", "2", "--dist", "loadfile", "-o", "addopts=--import-mode=importlib", "-q", "-ra", "--disable-warnings")

# Imports the libraries and tells which releases those are; metadata alone would not say which files are found first.
PROBE = """
import importlib, json, sys
from importlib.metadata import version
for name in ("accelerate", "huggingface_hub", "peft", "pydantic", "safetensors", "transformers"):
    assert importlib.import_module(name).__version__ == version(name), name
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


def main() -> int:
    """Make the environment, see that it is what was asked for and run the tests in it; gives the exit status."""
    wanted = floors()
    with tempfile.TemporaryDirectory(prefix="lora-studio-floors-") as folder:
        began = time.monotonic()
        python = environment_over_ours(Path(folder))
        install(python, wanted)
        found = versions(python, [*wanted, "torch"])
        say(f"Installed in {time.monotonic() - began:.0f} s: {', '.join(f'{name} {version}' for name, version in found.items())}")
        if wrong := [name for name, version in wanted.items() if Version(found[name]) != version]:
            say(f"Not the oldest releases that pyproject.toml declares: {', '.join(wrong)}")
            return 1
        say(LEFT_OUT)
        began = time.monotonic()
        status = run_tests(python)
        say(f"The tests took {time.monotonic() - began:.0f} s.")
    return status


def floors() -> dict[str, Version]:
    """Return the oldest release that pyproject.toml allows of each library that is tried."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [need for need in map(Requirement, project["dependencies"]) if need.name not in NOT_TRIED]
    return {need.name: next(Version(bound.version) for bound in need.specifier if bound.operator == ">=") for need in wanted}


def environment_over_ours(folder: Path) -> Path:
    """Make an environment that has what this one has, until something else is installed into it; gives its Python."""
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(folder)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    ours = sysconfig.get_path("purelib")
    (packages / "beneath.pth").write_text(f"import site; site.addsitedir({ours!r})\n", encoding="utf-8")
    return Path(builder.ensure_directories(folder).env_exe)


def install(python: Path, wanted: dict[str, Version]) -> None:
    """Install releases with what they need; pip fails where no set of releases satisfies them all.

    Raises:
        CalledProcessError: pip failed, and has said why.
    """
    names = [f"{name}=={version}" for name, version in wanted.items()]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--only-binary", ":all:", *names], check=True)


def versions(python: Path, names: list[str]) -> dict[str, str]:
    """Ask an environment which releases it imports."""
    told = subprocess.run([str(python), "-c", PROBE, *names], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(told)


def run_tests(python: Path) -> int:
    """Run the chosen tests in an environment; gives pytest's exit status."""
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run([str(python), "-m", "pytest", *PLUGINS, *OPTIONS, *TESTS], cwd=ROOT, env=alone, check=False).returncode


def say(text: str) -> None:
    """Print at once, before what the tests print."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
