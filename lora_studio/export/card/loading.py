"""The lines that load an artefact with the programs it is for. No torch here."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import NamedTuple

from lora_studio.export.export_format import ExportFormat

THIS_FOLDER = "PATH_TO_THIS_FOLDER"
BASE_GGUF = "BASE_MODEL.gguf"
_USUAL_CLASS = "AutoModelForCausalLM"
USUAL_FILES = {"gguf": "model.gguf", "gguf-adapter": "adapter.gguf"}


class Loading(NamedTuple):
    """One way to load an artefact.

    Attributes:
        program: What loads it, such as "PEFT" or "llama.cpp".
        language: Of the lines, as a code block of Markdown names it: `python` or `sh`.
        lines: To copy as they are.
    """

    program: str
    language: str
    lines: str


def loadings(kind: ExportFormat, folder: str, base: str, file: str = "", revision: str = "", auto: str = "") -> list[Loading]:
    """Return the ways to load an artefact, the usual one first.

    Args:
        kind: "adapter", "merged", "gguf", "gguf-adapter" or "mlx-adapter".
        folder: Where it lies, or a word for that.
        base: What the base model is called.
        file: Name of the GGUF file in the folder; empty for the usual one.
        revision: The base's, where one was named.
        auto: The class of transformers that loads the base; empty for the usual one.

    Raises:
        KeyError: There is no such kind.
    """
    auto = auto or _USUAL_CLASS
    if kind == "adapter":
        return _adapter(folder, base, revision, auto)
    if kind == "merged":
        return _merged(folder, auto)
    if kind == "mlx-adapter":
        return [_mlx_adapter(folder, base)]
    makers: dict[str, Callable[[str, str], list[Loading]]] = {"gguf": _gguf, "gguf-adapter": _gguf_adapter}
    return makers[kind](folder, file or USUAL_FILES.get(kind, ""))


def loading_lines(kind: ExportFormat, folder: str, base: str, file: str = "", revision: str = "", auto: str = "") -> str:
    """Return the lines of all ways to load an artefact as one text to copy; where there are several, each under its program's name."""
    ways = loadings(kind, folder, base, file, revision, auto)
    return ways[0].lines if len(ways) == 1 else "\n".join(f"# {way.program}\n{way.lines}" for way in ways)


def _adapter(folder: str, base: str, revision: str, auto: str) -> list[Loading]:
    pinned = f", revision={revision!r}" if revision else ""
    return [
        Loading(
            "PEFT",
            "python",
            (
                "from peft import PeftModel\n"
                f"from transformers import {auto}, AutoTokenizer\n\n"
                f"base = {auto}.from_pretrained({base!r}{pinned})\n"
                f"model = PeftModel.from_pretrained(base, {folder!r})\n"
                f"tokenizer = AutoTokenizer.from_pretrained({base!r}{pinned})\n"
            ),
        )
    ]


def _mlx_adapter(folder: str, base: str) -> Loading:
    """The command of mlx-lm 0.32, tried with its wheel."""
    return Loading("mlx-lm", "sh", f"mlx_lm.generate --model {shlex.quote(base)} --adapter-path {shlex.quote(folder)} --prompt Hello\n")


def _merged(folder: str, auto: str) -> list[Loading]:
    return [
        Loading(
            "transformers",
            "python",
            (
                f"from transformers import {auto}, AutoTokenizer\n\n"
                f"model = {auto}.from_pretrained({folder!r})\n"
                f"tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
            ),
        )
    ]


def _gguf(folder: str, file: str) -> list[Loading]:
    path = f"{folder}/{file}"
    return [
        Loading("llama.cpp", "sh", f"llama-server -m {shlex.quote(path)}\n"),
        Loading("Ollama", "sh", _ollama(folder, file)),
        Loading("xllamacpp", "python", _xllamacpp(path, "")),
    ]


def _gguf_adapter(folder: str, file: str) -> list[Loading]:
    path = f"{folder}/{file}"
    return [
        Loading("llama.cpp", "sh", f"llama-server -m {BASE_GGUF} --lora {shlex.quote(path)}\n"),
        Loading("Ollama", "sh", _ollama(folder, file)),
        Loading("xllamacpp", "python", _xllamacpp(BASE_GGUF, path)),
    ]


def _ollama(folder: str, file: str) -> str:
    """Ollama reads the `Modelfile` beside the GGUF, which names it by FROM or ADAPTER."""
    name = shlex.quote(file.removesuffix(".gguf").lower())
    return f"cd {shlex.quote(folder)}\nollama create {name} -f Modelfile\nollama run {name}\n"


def _xllamacpp(model: str, adapter: str) -> str:
    """Lines for xllamacpp 2026.10, tried with its wheel."""
    attach = f"params.lora_adapters = [xlc.CommonAdapterLoraInfo({adapter!r}, 1.0)]\n" if adapter else ""
    return (
        "import xllamacpp as xlc\n\n"
        "params = xlc.CommonParams()\n"
        f"params.model.path = {model!r}\n{attach}"
        "server = xlc.Server(params)\n"
        'answer = server.handle_chat_completions({"messages": [{"role": "user", "content": "Hello"}]})\n'
        'print(answer["choices"][0]["message"]["content"])\n'
    )
