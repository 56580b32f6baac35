"""What other programs were measured to make of our exports: read from `resources/consumers.json`, which `python -m tests.consumers` writes.

Never more is said than stands there: a family, or a kind of rotary settings, that has no row was not measured. No torch here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from lora_studio.core.paths import resources_folder

SAME, NEAR, NEAR_TOP1 = 2e-4, 1e-2, 0.97
"""Largest difference of a log-probability: of the same computation in float32, and of one that approximates a function; and the share of
positions with the same likeliest token that the latter has at least, random models having some near ties."""
_FOLDERS = re.compile(r"/\S*/")
_LLAMA3_LENGTH = 8192  # of the models of that name; a program that takes it for granted is right for them
_GPT_NEOX_THETA = 10000  # of all models of that family; some programs have no setting for it
MeasuredOutcome = Literal["same", "near", "other", "no"]
_OUTCOMES: tuple[MeasuredOutcome, ...] = ("same", "near", "other", "no")
MeasuredFormat = Literal["merged", "adapter"]


@dataclass(frozen=True)
class Measured:
    """What one program made of one export.

    Attributes:
        program: Its name and version.
        form: `merged` or `adapter`.
        subject: The model, as the table calls it.
        difference: Largest difference of a log-probability from base + adapter in plain PEFT; -1 where it could not be read.
        top1: Share of positions with the same likeliest token.
        tokenizer: Whether its tokenizer reads texts, chat and special tokens as they are meant; None where that was not tried.
        error: What it said where it could not read it.
        date: When.
        ran: Whether it was run at all; `error` says why not.
    """

    program: str
    form: str
    subject: str
    difference: float = -1.0
    top1: float = 0.0
    tokenizer: bool | None = None
    error: str = ""
    date: str = ""
    ran: bool = True

    @classmethod
    def of(cls, found: Mapping[str, Any], date: str) -> Measured:
        """Take it from what a reader wrote; of folders named in an error the last part stays."""
        difference, top1 = float(f"{found.get('difference', -1.0):.1e}"), round(float(found.get("top1", 0.0)), 3)
        error = _FOLDERS.sub("", str(found.get("error", "")))
        named = {name: found[name] for name in ("program", "form", "subject", "tokenizer", "ran") if name in found}
        return cls(difference=difference, top1=top1, error=error, date=date, **named)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reader:
    """Whether a program reads exports of one family in one form, as far as that was measured.

    Attributes:
        program: Its name and version.
        outcome: `same`, `near`, `other` (it computes something else) or `no` (it does not read it).
        difference: Largest difference of a log-probability; -1 where it does not read them.
        told: The outcome as a sentence.
    """

    program: str
    outcome: MeasuredOutcome
    difference: float
    told: str


def outcome_of(found: Measured) -> MeasuredOutcome:
    """Say what a measurement means."""
    if found.error or found.difference < 0 or found.tokenizer is False:
        return "no"
    if found.difference <= SAME:
        return "same"
    return "near" if found.difference <= NEAR and found.top1 >= NEAR_TOP1 else "other"


def rotary_of(config: Mapping[str, Any]) -> str:
    """Return what of a model's rotary settings is more than plain: a method's name, `partial`, or nothing."""
    inner = config.get("text_config")
    shape = cast("dict[str, Any]", inner) if isinstance(inner, dict) else config
    rope: Any = shape.get("rope_parameters") or shape.get("rope_scaling") or {}
    full: Any = rope.get("full_attention", rope) if isinstance(rope, dict) else {}
    kind = str((full or {}).get("rope_type") or (full or {}).get("type") or "default")
    if kind == "llama3" and (full or {}).get("original_max_position_embeddings") != _LLAMA3_LENGTH:
        return "llama3 of another length"
    if kind != "default":
        return kind
    if shape.get("model_type") == "gpt_neox" and (full or {}).get("rope_theta", _GPT_NEOX_THETA) != _GPT_NEOX_THETA:
        return "another theta"
    share = (full or {}).get("partial_rotary_factor", shape.get("partial_rotary_factor", 1.0))
    return "partial" if shape.get("model_type") != "gpt_neox" and share not in (None, 1.0) else ""


def readers(config: Mapping[str, Any], form: MeasuredFormat, *, experts: bool = False) -> list[Reader]:
    """Say of each measured program what it makes of exports of a model's family; nothing for a family that was not measured.

    Args:
        config: The model's `config.json`.
        form: `merged` or `adapter`.
        experts: Whether the adapter is on fused experts.
    """
    table = _read(resources_folder() / "consumers.json")
    family, rotary = str(config.get("model_type", "")), rotary_of(config)
    alike = [one for one in table["subjects"] if (one["family"], one["rotary"]) == (family, rotary)]
    names = {one["name"] for one in alike if form == "merged" or one["experts"] == experts}
    by_program: dict[str, list[Measured]] = {}
    for found in (Measured(**entry) for entry in table["results"]):
        if found.form == form and found.subject in names and found.ran:
            by_program.setdefault(found.program, []).append(found)
    found = [_reader(program, told) for program, told in by_program.items()]
    return sorted(found, key=lambda reader: (_OUTCOMES.index(reader.outcome), -reader.difference))


def _reader(program: str, found: list[Measured]) -> Reader:
    """Sum up what a program made of several models of a family by the worst of them."""
    worst = max(found, key=lambda one: (_OUTCOMES.index(outcome_of(one)), one.difference))
    outcome = outcome_of(worst)
    on = f"measured on {worst.subject}, {worst.date}"
    said = {
        "same": f"computes the same, to {worst.difference:.0e} ({on})",
        "near": f"computes nearly the same, to {worst.difference:.0e}, with {worst.top1:.0%} of the likeliest tokens ({on})",
        "other": f"loads it and computes something else: log-probabilities differ by up to {worst.difference:.2g} ({on})",
        "no": f"does not read it: {worst.error or 'its tokenizer splits texts otherwise'} ({on})",
    }
    return Reader(program, outcome, worst.difference, said[outcome])


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {"subjects": [], "results": []}  # the suite that writes it exports too
    return found
