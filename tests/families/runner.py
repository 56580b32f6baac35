"""Runs families one after the other, each in a process of its own that ends in time, and keeps what came of them."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import multiprocessing.context
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from tests.patience import Patience

if TYPE_CHECKING:
    from tests.families.trial import Outcome

LIMIT = 120.0
"""Seconds that a family may take, on a machine with nothing else to do; on a busy one, as much longer as all takes there."""
_LOOK_S = 0.5


def versions() -> dict[str, str]:
    """Return the versions that a table was made with."""
    from importlib.metadata import version

    from lora_studio import __version__

    return {"lora_studio": __version__, **{name: version(name) for name in ("transformers", "peft", "torch")}}


class Results:
    """Outcomes kept in a folder, a file each, from which a later call goes on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, family: str) -> Path:
        """Say where a family's outcome is."""
        return self._folder / f"{family}.json"

    def read(self, family: str) -> Outcome | None:
        """Return a family's outcome; None where there is none of these versions."""
        from tests.families.trial import Outcome

        try:
            kept = json.loads(self.path(family).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if kept.pop("versions", None) != versions():
            return None
        kept.pop("date", None)
        return Outcome(**kept)

    def write(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        told = {**outcome.to_json(), "versions": versions(), "date": date.today().isoformat()}
        self.path(outcome.family).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def run_families(names: Sequence[str], results: Results, limit: float = LIMIT, *, again: bool = False) -> Iterator[Outcome]:
    """Take families through the trial and give what came of each; one whose outcome is kept is not run, unless `again`."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.families.trial"])
    for name in names:
        kept = None if again else results.read(name)
        if kept is None:
            kept = _in_a_process(processes, name, results, limit)
        yield kept


def _in_a_process(processes: multiprocessing.context.ForkServerContext, family: str, results: Results, limit: float) -> Outcome:
    from tests.families.trial import Outcome

    results.path(family).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="family-") as folder:
        process = processes.Process(target=_child, args=(family, folder, str(results.path(family).parent)))
        process.start()
        patience = Patience(limit)
        while process.is_alive() and not patience.is_over():
            process.join(_LOOK_S)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
    found = results.read(family)
    if found is None:
        why = f"did not end within {limit:.0f} s" if late else f"its process ended with {process.exitcode}"
        found = Outcome(family, checks={"time": why})
        results.write(found)
    return found


def _child(family: str, folder: str, results: str) -> None:
    """Run one family; its output goes nowhere, since the outcome says all."""
    os.environ.update(LORA_STUDIO_HOME=str(Path(folder) / "home"), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import torch
    import transformers

    from tests.families.trial import go_through

    gc.freeze()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        outcome = go_through(family, Path(folder))
    Results(Path(results)).write(outcome)
