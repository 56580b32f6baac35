"""What an adapter of a quantized base is merged into: that base unpacked, or the full precision it was quantized from. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_studio.core.errors import InputError, StudioError
from lora_studio.export.source import AdapterSource
from lora_studio.models.full_precision import full_precision_of
from lora_studio.models.quantization import NONE
from lora_studio.models.sources import find_model
from lora_studio.models.stored_quantization import stored_finding

AUTO, ORIGINAL, DEQUANTIZED = "auto", "original", "dequantized"
BASES = (AUTO, ORIGINAL, DEQUANTIZED)
_FIELD = "into"


@dataclass(frozen=True)
class Original:
    """A model in full precision that takes a quantized base's place in a merge.

    Attributes:
        name: What it is called.
        folder: Where it lies.
    """

    name: str
    folder: Path


def check_into(source: AdapterSource, into: str) -> None:
    """See that there is such a base to merge into; where the base is not on this machine yet, as far as can be told.

    Raises:
        InputError: There is not.
    """
    if into not in BASES:
        _refuse_unknown(into)
    folder = _folder_of(source)
    if folder is not None and folder.is_dir():
        merged_base(source.with_base(folder), folder, into)


def merged_base(source: AdapterSource, base: Path, into: str) -> str:
    """Return the name of the model to merge into instead of the adapter's own base; empty where it is that base, unpacked if need be.

    Args:
        source: The adapter, knowing its base.
        base: Folder of the base it was trained on.
        into: auto, original, dequantized, or the name of a model in full precision.

    Raises:
        InputError: There is no such base, or its weights cannot be read here.
    """
    if source.stored is None:
        _refuse_without_choice(source, into)
        return ""
    if into in (AUTO, DEQUANTIZED):
        refused = stored_finding(source.stored, NONE, "cpu")
        if refused is not None:
            instead = f"{refused.hint} Or merge into it: --into NAME."
            raise InputError(refused.message, instead, refused.field)
        return ""
    if into != ORIGINAL:
        return into
    named = full_precision_of(source.base_name, base)
    if not named:
        message = f"Nothing tells which model in full precision {source.base_name} was quantized from."
        raise InputError(message, "Name it: --into FOLDER_OR_NAME. Or merge into the base unpacked: --into dequantized.", _FIELD)
    return named


def find_original(name: str) -> None:
    """See that a model in full precision is known by its name.

    Raises:
        InputError: It is not.
    """
    try:
        find_model(name)
    except InputError as error:
        hint = "Name it otherwise: --into FOLDER_OR_NAME. Or merge into the base unpacked: --into dequantized."
        raise InputError(f"The base in full precision is not found: {error.message}", hint, _FIELD) from error


def _refuse_unknown(into: str) -> None:
    try:
        find_model(into)
    except InputError as error:
        message = f"There is no base to merge into that is called {into!r}."
        raise InputError(message, f"Choose one of: {', '.join(BASES)}; or name a model in full precision.", _FIELD) from error


def _refuse_without_choice(source: AdapterSource, into: str) -> None:
    """Refuse what only an adapter of a quantized base can be merged into."""
    if into == DEQUANTIZED and source.base_quantization == NONE:
        message = "The adapter was trained on a base in full precision: there is no dequantized one."
        raise InputError(message, "Merge into the original.", _FIELD)
    if into not in BASES:
        message = f"The adapter's base, {source.base_name}, is in full precision: it is merged into that, not into {into}."
        raise InputError(message, "Leave --into out.", _FIELD)


def _folder_of(source: AdapterSource) -> Path | None:
    try:
        return find_model(source.base_name, source.base_revision).path
    except StudioError:
        return None
