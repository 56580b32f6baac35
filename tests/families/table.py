"""The table of families as a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

from tests.families.known import KNOWN
from tests.families.runner import versions
from tests.families.trial import CHECKS, Outcome

_YES, _NO, _NONE = "✓", "✗", "–"


def line(outcome: Outcome) -> str:
    """Tell of one family in a line of text."""
    cells = "".join(_mark(outcome, check) for check in CHECKS)
    return f"{outcome.family:26} {cells} {outcome.seconds:5.1f} s  {_falls_short(outcome)}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the page."""
    tried = [outcome for outcome in outcomes if outcome.checks.get("config", "").startswith("yes")]
    whole = [outcome for outcome in tried if not outcome.shortfalls]
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    rows = "\n".join(_row(outcome) for outcome in tried)
    untried = "\n".join(f"- `{outcome.family}`: {_falls_short(outcome)}" for outcome in outcomes if outcome not in tried)
    return f"""# Families

Made by `python -m tests.families` on {date.today().isoformat()} with {used}: every family that transformers has a causal language model
of, as a tiny random model. Of {len(outcomes)} families {len(tried)} could be made tiny, and {len(whole)} of these pass all checks.

| check | what it holds |
|---|---|
| inspect | the tree made from config.json alone counts the parameters of the loaded model; how many modules can have an adapter |
| presets | *attention* + *MLP* of *all linear*: how many modules each means, and that the settings compiled from it mean the same |
| plan | the count of trained parameters is that of PEFT, for each preset; that of *all linear* is shown |
| rows | first loss and gradient norm of each row are those of plain transformers and PEFT, within {1e-5:g}; the largest difference |
| steps | so are those of four steps of a run over rows of mixed length, all linear layers trained; later steps within {1e-4:g} |
| adapter | the exported adapter, loaded by PEFT, gives the logits of the run's; the largest difference, of their spread |
| merged | the merged model, loaded by transformers, gives them too |
| packing | rows packed into one have the loss they have alone (✓), or packing is refused before a step is taken (*refused*) |

| family | class | {" | ".join(CHECKS)} | falls short |
|---|---|{"---|" * len(CHECKS)}---|
{rows}

## Not tried
{untried}
"""


def _row(outcome: Outcome) -> str:
    cells = [_cell(outcome, check) for check in CHECKS]
    return f"| {outcome.family} | {outcome.architecture} | {' | '.join(cells)} | {_falls_short(outcome)} |"


def _cell(outcome: Outcome, check: str) -> str:
    said = outcome.checks.get(check)
    if said is None or not said.startswith("yes"):
        return _mark(outcome, check)
    inside = re.search(r"\((.*)\)", said)
    told = inside.group(1) if inside else ""
    told = told.removesuffix(" targetable").removesuffix(" trained")
    return (told.split(":")[0] if check == "packing" else told) or _YES


def _mark(outcome: Outcome, check: str) -> str:
    said = outcome.checks.get(check)
    return _NONE if said is None else _YES if said.startswith("yes") else _NO


def _falls_short(outcome: Outcome) -> str:
    known = KNOWN.get(outcome.family, {})
    parts = [f"{check}: {known.get(check) or said}" for check, said in outcome.shortfalls.items()]
    return "; ".join(parts).replace("|", "\\|")
