"""Export, and read in other programs: `python -m tests.consumers [READER…] [--subject NAME] [--keep FOLDER] [--write]`."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.consumers import say
from tests.consumers.llama import read_in_llama
from tests.consumers.readers import READERS, read_in
from tests.consumers.subjects import make_subjects

_ROOT = Path(__file__).resolve().parents[2]
_LLAMA = "llama.cpp"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.consumers", description=__doc__)
    parser.add_argument("reader", nargs="*", help=f"of: {', '.join([*(reader.name for reader in READERS), _LLAMA])}; none means all")
    parser.add_argument("--subject", action="append", default=[], help="a model alone, by its name in the table; may be repeated")
    parser.add_argument("--keep", type=Path, help="a folder to work in that stays; else a temporary one")
    parser.add_argument("--write", action="store_true", help="renew docs/CONSUMERS.md and resources/consumers.json; else print alone")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("LORA_STUDIO_HOME", str(folder / "home"))
        _run(chosen, folder)


def _run(chosen: Any, folder: Path) -> None:
    from tests.consumers.table import document_of, page, write_results

    subjects = make_subjects(folder, chosen.subject)
    results: list[dict[str, Any]] = []
    for reader in READERS:
        if not chosen.reader or reader.name in chosen.reader:
            results += read_in(reader, folder, folder / "subjects.json", folder / "torch")
    if not chosen.reader or _LLAMA in chosen.reader:
        results += read_in_llama(subjects, folder / "gguf")
    here = {name: importlib.metadata.version(name) for name in ("peft", "transformers")}
    date = datetime.now(UTC).date().isoformat()
    if chosen.write:
        write_results(_ROOT, subjects, results, date, here)
    say(page(document_of(subjects, results, date, here)))


if __name__ == "__main__":
    main()
