"""What was measured, as `resources/consumers.json` for the program and as `docs/CONSUMERS.md` for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_studio.export.measured import NEAR, SAME, Measured, outcome_of
from tests.consumers.subjects import Subject

_HEAD = """# What other programs read of what we write

Made by `python -m tests.consumers --write`; not to be edited. Measured on {date}, on a processor, in float32, with the versions named:
the starter and tiny random models, each with an adapter that changes it, exported by this program and read by others. A cell gives the
largest difference of any log-probability from base + adapter in plain PEFT ({here}); *other* means that the program computes something
else, *no* that it does not read it, with the reasons below. What has no row or column was not measured.

Same: at most {same:g}. Near: at most {near:g} with the same likeliest tokens everywhere (the program rounds or approximates otherwise).
"""


def write_results(root: Path, subjects: list[Subject], results: list[dict[str, Any]], date: str, here: dict[str, str]) -> None:
    """Write both files into a checkout."""
    kept = [Measured.of(found) for found in results]
    document = {
        "date": date, "here": here, "subjects": [one.told() for one in subjects],
        "results": [found.to_json() for found in kept]}
    (root / "resources" / "consumers.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (root / "docs" / "CONSUMERS.md").write_text(page(document), encoding="utf-8")


def page(document: dict[str, Any]) -> str:
    """Give the page of what `resources/consumers.json` holds."""
    here = ", ".join(f"{name} {version}" for name, version in document["here"].items())
    parts = [_HEAD.format(date=document["date"], here=here, same=SAME, near=NEAR)]
    measured = [Measured(**found) for found in document["results"]]
    names = [one["name"] for one in document["subjects"]]
    for form, title in (("merged", "Merged models"), ("adapter", "Adapters")):
        of_form = [found for found in measured if found.form == form]
        if of_form:
            parts.append(f"\n## {title}\n\n{_table(names, of_form)}")
            parts.append("\n".join(_reasons(of_form)))
    return "\n".join(parts).rstrip() + "\n"


def _table(names: list[str], measured: list[Measured]) -> str:
    programs = list(dict.fromkeys(found.program for found in measured))
    by_place = {(found.subject, found.program): found for found in measured}
    lines = [f"| model | {' | '.join(programs)} |", "|---" * (len(programs) + 1) + "|"]
    for name in names:
        cells = (_cell(by_place.get((name, program))) for program in programs)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: Measured | None) -> str:
    if found is None:
        return "not measured"
    outcome = outcome_of(found)
    if outcome == "no":
        return "no"
    figure = f"{found.difference:.0e}"
    return figure if outcome == "same" else f"{outcome}: {figure}, {found.top1:.0%} the same likeliest"


def _reasons(measured: list[Measured]) -> list[str]:
    said: dict[tuple[str, str], list[str]] = {}
    for found in measured:
        if found.error or found.tokenizer is False:
            said.setdefault((found.program, found.error or "the tokenizer reads otherwise"), []).append(found.subject)
    return [f"- {program}, {'; '.join(subjects)}: {error.replace('|', '/')}" for (program, error), subjects in said.items()]
