"""How many answers are JSON objects with their reference's keys: the plainest measure of a run that teaches a format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from lora_studio.core.events import Sample


@dataclass(frozen=True)
class JsonShare:
    """`right` of `rows` answers parse as a JSON object that has exactly the reference's keys."""

    right: int
    rows: int


def json_keys(text: str) -> frozenset[str] | None:
    """Return the keys of a text that is one JSON object, white space around it aside; None for anything else."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return frozenset(value) if isinstance(value, dict) else None


def has_reference_keys(sample: Sample) -> bool:
    """Return whether an answer is a JSON object with its reference's keys."""
    wanted = json_keys(sample.reference)
    return wanted is not None and json_keys(sample.text) == wanted


def json_share(samples: Iterable[Sample]) -> JsonShare | None:
    """Count over the samples whose reference is a JSON object; None where no reference is one."""
    asked = [sample for sample in samples if json_keys(sample.reference) is not None]
    return JsonShare(sum(map(has_reference_keys, asked)), len(asked)) if asked else None
