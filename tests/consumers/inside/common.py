"""Shared by what runs in the readers' environments: numpy and the standard library alone.

python READER.py SUBJECTS.json RESULTS.json FORM…
"""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

import numpy


def compared(subject: dict, logits: numpy.ndarray, rows: slice = slice(None)) -> dict:
    """Hold logits (positions × vocabulary), or log-probabilities, against those of base + adapter in plain PEFT."""
    meant = _log_probabilities(numpy.load(subject["reference"])[rows])
    found = _log_probabilities(logits[:, : meant.shape[1]])
    return {"difference": float(numpy.abs(found - meant).max()), "top1": float((found.argmax(1) == meant.argmax(1)).mean())}


def _log_probabilities(logits: numpy.ndarray) -> numpy.ndarray:
    shifted = logits.astype("float64") - logits.max(1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(1, keepdims=True))


def main(forms: dict[str, Callable[[dict], dict]], versions: Callable[[], dict]) -> None:
    """Go through all subjects in every form that was asked for, and write down what came of it; an error is a result."""
    subjects = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    results = []
    for form in sys.argv[3:]:
        for subject in subjects:
            try:
                found = forms[form](subject)
            except Exception as error:  # whatever the reader raises is what is to be told
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {shorten(str(error), 240, placeholder=' …')}"}
            results.append({"form": form, "subject": subject["name"], **found})
    Path(sys.argv[2]).write_text(json.dumps({"versions": versions(), "results": results}, indent=1), encoding="utf-8")
