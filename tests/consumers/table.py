"""What was measured, as `resources/consumers.json` for the program and as `docs/CONSUMERS.md` for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_studio.export.card.measured import NEAR, NEAR_TOP1, SAME, Measured, outcome_of
from tests.consumers.llama import COMPARES
from tests.consumers.readers import READERS, TORCH
from tests.consumers.subjects import TINY, Subject

_HEAD = """# What other programs read of what we write

Made by `python -m tests.consumers --write`; not to be edited. Measured {date}, on a processor, in float32, with the versions named:
the starter and tiny random models, each with an adapter that changes it, exported by this program and read by others. A cell gives the
largest difference of any log-probability from base + adapter in plain PEFT ({here}).
*Other* means that the program computes something else, *no* that it does not read it, *not run* that there was nothing to read, with the
reasons below. What has no row or column was not measured. GGUF files are what llama.cpp reads, and there our certificate's own comparison
counts. The adapters are plain LoRA on linear layers, on fused experts where that is said: of DoRA, rsLoRA, ranks that differ, biases,
new tokens and whole trained modules nothing was measured.

Same: at most {same:g}. Near: at most {near:g}, and the same likeliest token at {top1:.0%} of positions or more: the program rounds or
approximates a function otherwise.
"""


def write_results(root: Path, subjects: list[Subject], results: list[dict[str, Any]], date: str, here: dict[str, str]) -> None:
    """Write both files into a checkout."""
    document = document_of(subjects, results, date, here)
    file = root / "resources" / "consumers.json"
    if file.is_file():
        document = _renewed(json.loads(file.read_text(encoding="utf-8")), document)
    (root / "resources" / "consumers.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (root / "docs" / "CONSUMERS.md").write_text(page(document), encoding="utf-8")


def document_of(subjects: list[Subject], results: list[dict[str, Any]], date: str, here: dict[str, str]) -> dict[str, Any]:
    """Return what `resources/consumers.json` holds of one call of the suite."""
    found = [Measured.of(found, date).to_json() for found in results]
    return {"here": here, "subjects": [one.told() for one in subjects], "results": found}


def _renewed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Put what was measured now in the place of what was before; what is no longer part of the suite, or held against others, goes."""
    if before["here"] != now["here"]:
        before = {"subjects": [], "results": []}
    programs = {program for reader in READERS for program in reader.programs.values()}
    names = {"starter", *TINY}
    subjects = {one["name"]: one for one in [*before["subjects"], *now["subjects"]] if one["name"] in names}
    results = {
        (one["program"], one["form"], one["subject"]): one
        for one in [*before["results"], *now["results"]]
        if one["subject"] in names and (one["program"] in programs or one["program"].startswith("llama.cpp"))
    }
    return {"here": now["here"], "subjects": list(subjects.values()), "results": list(results.values())}


def page(document: dict[str, Any]) -> str:
    """Return the page of what `resources/consumers.json` holds."""
    here = ", ".join(f"{name} {version}" for name, version in document["here"].items())
    dates = sorted({found["date"] for found in document["results"]})
    date = f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"
    parts = [_HEAD.format(date=date, here=here, same=SAME, near=NEAR, top1=NEAR_TOP1)]
    measured = [Measured(**found) for found in document["results"]]
    names = [one["name"] for one in document["subjects"]]
    for form, title in (("merged", "Merged models"), ("adapter", "Adapters")):
        of_form = [found for found in measured if found.form == form]
        if of_form:
            parts.append(f"\n## {title}\n\n{_table(names, of_form)}")
            parts.append("\n".join(_reasons(of_form)))
    parts.append(_environments(measured))
    return "\n".join(parts).rstrip() + "\n"


def _environments(measured: list[Measured]) -> str:
    """Say of each program what was installed with it, what of its answers was compared, and when."""
    lines = ["\n## What was run, and what was compared\n"]
    for reader in READERS:
        beside = [*reader.packages, *(TORCH if reader.torch else ())]
        lines.append(
            f"- {' and '.join(dict.fromkeys(reader.programs.values()))} ({', '.join(beside)}): {reader.compares}. "
            f"{_when(measured, set(reader.programs.values()))}"
        )
    llama = {found.program for found in measured if found.program.startswith("llama.cpp")}
    return "\n".join([*lines, *(f"- {program}: {COMPARES}. {_when(measured, {program})}" for program in sorted(llama))]) + "\n"


def _when(measured: list[Measured], programs: set[str]) -> str:
    dates = sorted({found.date for found in measured if found.program in programs})
    return f"Measured on {' and '.join(dates)}." if dates else "Not run."


def _table(names: list[str], measured: list[Measured]) -> str:
    told = dict.fromkeys(found.program for found in measured)
    programs = [*dict.fromkeys(program for reader in READERS for program in reader.programs.values() if program in told)]
    programs += [program for program in told if program not in programs]
    by_place = {(found.subject, found.program): found for found in measured}
    lines = [f"| model | {' | '.join(programs)} |", "|---" * (len(programs) + 1) + "|"]
    for name in names:
        cells = (_cell(by_place.get((name, program))) for program in programs)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: Measured | None) -> str:
    if found is None:
        return "not measured"
    if not found.ran:
        return "not run"
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
