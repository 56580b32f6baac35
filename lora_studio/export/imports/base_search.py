"""The base model an adapter needs: by its name, by the last part of a path from elsewhere, or asked for. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.export.redact import hub_id, last_part
from lora_studio.models.full_precision import named_in_full_precision
from lora_studio.models.sources import ModelSource, find_model, local_models

FIELD = "base"


@dataclass(frozen=True)
class FoundBase:
    """A base model, here or not yet.

    Attributes:
        name: What to call it in a config: a Hub id, a folder or a file.
        revision: Its revision, where one was named.
        folder: Where its config lies; None for one that has to be downloaded or converted first.
        findings: What is to know about how it was found.
    """

    name: str
    revision: str | None
    folder: Path | None
    findings: tuple[Finding, ...] = ()


def find_base(named: str, revision: str | None, given: str | None) -> FoundBase:
    """Find the base model of an adapter.

    Args:
        named: What the adapter says; empty where it does not.
        revision: The revision it says.
        given: What a person gave, which goes before what the adapter says.

    Raises:
        InputError: There is no such model here; its field is `base`, and a person has to be asked.
    """
    if given:
        return _known(given, None)
    if not named:
        raise InputError("The adapter does not name its base model.", "Give the base model it was trained on.", FIELD)
    full = last_part(named_in_full_precision(named))
    if full and not Path(named).expanduser().exists():
        return _of_few_bits(named, revision, full)
    if hub_id(named) or Path(named).expanduser().exists():
        return _known(named, revision)
    alike = [source for source in local_models() if last_part(source.name).lower() == last_part(named).lower()]
    if not alike:
        hint = "Give the base model it was trained on: a folder, a GGUF file or a Hub id."
        raise InputError(f"The adapter was trained on {named}, which is not on this machine.", hint, FIELD)
    message = f"It was trained on {named}, which is not on this machine; {alike[0].name} has the same name."
    by_name = Finding("warning", "base_by_name", message, "Give another base if it is not the same.", FIELD)
    found = _found(alike[0], None)
    return FoundBase(found.name, None, found.folder, (by_name, *found.findings))


def _of_few_bits(named: str, revision: str | None, full: str) -> FoundBase:
    """Take the model in full precision in a quantized one's place where it is here, else that one itself, else ask for the former."""
    alike = [source for source in local_models() if last_part(source.name).lower() == full.lower()]
    found = _known(named, revision) if not alike and hub_id(named) else None
    if found is not None and found.folder is not None:
        return found
    if not alike:
        message = f"The adapter was trained on {named}, a model held in few bits, into which nothing is merged."
        raise InputError(message, f"Give the model in full precision, {full}: a folder or a Hub id.", FIELD)
    message = f"It was trained on {named}, a model held in few bits; {alike[0].name} is the same in full precision."
    by_name = Finding("warning", "full_precision_base", message, "Give another base if it is not the same.", FIELD)
    found = _found(alike[0], None)
    return FoundBase(found.name, None, found.folder, (by_name, *found.findings))


def _known(name: str, revision: str | None) -> FoundBase:
    try:
        return _found(find_model(name, revision), revision)
    except InputError as error:
        raise InputError(error.message, error.hint, FIELD) from error


def _found(source: ModelSource, revision: str | None) -> FoundBase:
    here = {"folder": source.path, "gguf": source.file}.get(source.kind)
    name = str(here.absolute()) if here is not None else source.name
    if source.path is not None and source.needs in ("", "weights"):
        return FoundBase(name, revision, source.path)
    message = f"{source.name} is not ready on this machine; whether the adapter fits is seen when it is."
    return FoundBase(name, revision, None, (Finding("note", "base_not_here", message, "", FIELD),))
