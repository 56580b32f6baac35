"""What llama.cpp makes of a GGUF file, against base + adapter: log-probabilities of the next token at positions of held-out rows."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lora_studio.core.errors import StudioError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.export.gguf.llama_tokens import token_probes
from lora_studio.export.gguf.programs import ProgramFailedError, run_program
from lora_studio.export.verify.comparison import LlamaComparison

if TYPE_CHECKING:
    from torch import Tensor

    from lora_studio.core.control import TaskContext

INSTALL = "pip install xllamacpp"
_TOP = 40
_POSITIONS = 16  # of each row


def llama_available() -> bool:
    """Return whether llama.cpp can be run here."""
    return importlib.util.find_spec("xllamacpp") is not None


def llama_version() -> str:
    """Name the program that runs GGUF files, with its version."""
    return f"llama.cpp (xllamacpp {importlib.metadata.version('xllamacpp')})"


def compare_in_llama(
    context: TaskContext, model: Path, adapter: Path | None, rows: Sequence[Sequence[int]], expected: Sequence[Tensor], tokenizer: Any
) -> Generator[RunEvent, None, LlamaComparison]:
    """Run a GGUF file in a child, and compare it with logits of base + adapter; of a whole model also what it makes of texts.

    Args:
        context: The host's.
        model: The GGUF model.
        adapter: A GGUF adapter to put on it, or None.
        rows: Token ids.
        expected: For each row its logits, positions × vocabulary.
        tokenizer: The model's.

    Raises:
        StudioError: llama.cpp cannot run it, with its own last words.
    """
    probes = [] if adapter else token_probes(tokenizer, rows)
    positions = [_spread(len(row)) for row in rows]
    total = sum(len(chosen) for chosen in positions)
    comparison = LlamaComparison(rows=len(rows))
    request: dict[str, object] = {
        "model": str(model),
        "adapter": str(adapter) if adapter else None,
        "rows": [list(row) for row in rows],
        "positions": positions,
        "top": _TOP,
        "threads": torch.get_num_threads(),
        "plain": _plain_token(tokenizer),
        "texts": [probe.to_json() for probe in probes],
    }
    for answer in _answers(context, request):
        if "text" in answer:
            probe = probes[answer["text"]]
            comparison.add_text(probe.text, probe.expected, answer["tokens"])
            continue
        log_expected = expected[answer["row"]][answer["length"] - 1].log_softmax(-1)
        comparison.add(log_expected, [(int(number), float(value)) for number, value in answer["top"]])
        yield Phase(name="checking", message="Running it in llama.cpp", done=comparison.positions, total=total, unit="positions")
    if (comparison.positions, comparison.texts) != (total, len(probes)):
        message = f"llama.cpp answered {comparison.positions} of {total} positions and {comparison.texts} of {len(probes)} texts."
        raise StudioError(message, "Export it again.", "kind")
    return comparison


def _plain_token(tokenizer: Any) -> int:
    """Return a token that is text by itself.

    Raises:
        StudioError: There is none.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    plain = (number for text, number in sorted(vocabulary.items()) if text.isascii() and text.isalpha() and len(text) > 1)
    found = next(plain, None)
    if found is None:
        message = "No token of the model is a plain word, by which llama.cpp could be asked."
        raise StudioError(message, "Export it as a merged model.", "kind")
    return found


def _spread(length: int) -> list[int]:
    """Choose lengths of a row, evenly, the whole one among them."""
    count = min(_POSITIONS, length)
    return sorted({max(1, round(length * (number + 1) / count)) for number in range(count)})


def _answers(context: TaskContext, request: dict[str, object]) -> Iterator[dict[str, Any]]:
    child = Path(__file__).with_name("llama_child.py")
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "request.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        try:
            for line in run_program(context, [sys.executable, "-P", child], paths, given=asked):
                if line.startswith(('{"row": ', '{"text": ')):
                    yield json.loads(line)
        except ProgramFailedError as error:
            raise StudioError(f"llama.cpp cannot run the file: {error.said}", "Export it as a merged model instead.", "kind") from error
