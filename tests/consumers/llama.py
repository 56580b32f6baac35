"""llama.cpp, which runs here: our GGUF exports of every subject, models and adapters, run by xllamacpp as the certificate runs them."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from lora_studio.export.card.measured import NEAR
from tests.consumers import say
from tests.consumers.subjects import Subject

COMPARES = "the ten likeliest tokens, at up to 16 positions of each row of our certificate; the tokens of texts"


def read_in_llama(subjects: list[Subject], folder: Path) -> list[dict[str, Any]]:
    """Export each subject as GGUF, model and adapter, and give what llama.cpp made of it."""
    from lora_studio.core.control import TaskContext
    from lora_studio.export.gguf.llama_cpp import fetch_converter, find_converter

    if find_converter() is None:
        list(fetch_converter(TaskContext()))
    version = importlib.metadata.version("xllamacpp")
    found: list[dict[str, Any]] = []
    for subject in subjects:
        say(f"llama.cpp: {subject.name}")
        for form, kind in (("merged", "gguf"), ("adapter", "gguf-adapter")):
            place = folder / f"{Path(subject.merged).parent.name}-{kind}"
            found.append(
                {
                    "form": form,
                    "subject": subject.name,
                    "program": f"llama.cpp (xllamacpp {version})",
                    "versions": {"xllamacpp": version},
                    **_exported(subject, kind, place),
                }
            )
    return found


def _exported(subject: Subject, kind: str, place: Path) -> dict[str, Any]:
    from lora_studio.core.errors import InputError, StudioError
    from lora_studio.export.destination import CERTIFICATE_NAME
    from tests.export.adapters import run_export

    try:
        told = run_export(source=str(Path(subject.adapter).parent / "source"), kind=kind, to=str(place), outtype="f32")["certificate"]
    except InputError as error:  # nothing was written, so that nothing was run
        return {"ran": False, "error": error.message}
    except StudioError as error:
        certificate = place.with_name(f"{place.name}-failed") / CERTIFICATE_NAME
        told = json.loads(certificate.read_text(encoding="utf-8")) if certificate.is_file() else {}
        if (told.get("max_abs_logit_difference") or 0.0) <= NEAR:  # it failed by something else
            return {"error": told.get("reason") or error.message}
    if told["grade"] != "logits":
        return {"ran": False, "error": "it was written and its tensors recomputed; the base could not be converted here"}
    return {"difference": told["max_abs_logit_difference"], "top1": told["top1_agreement"]}
