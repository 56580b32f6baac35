"""`python -m tests.families [NAME…]`: all families, or those named, and the table of what came of them."""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from tests.families.configs import families
from tests.families.runner import LIMIT, Results, run_families, versions
from tests.families.table import line, table

_TABLE = Path(__file__).resolve().parents[2] / "docs" / "FAMILIES.md"


def main() -> None:
    """Run, print a line for each family, and write the table once all have an outcome."""
    parser = ArgumentParser(prog="python -m tests.families", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="families, as transformers names them; all by default")
    kept = Path(tempfile.gettempdir()) / f"lora-studio-families-{versions()['transformers']}"
    parser.add_argument("--results", type=Path, default=kept, help="where outcomes are kept; what is there is not run again")
    parser.add_argument("--again", action="store_true", help="run also what is there")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for a family")
    parser.add_argument("--table", type=Path, default=_TABLE, help="the table to write, of all families")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(families()))
    if unknown:
        parser.error(f"transformers {versions()['transformers']} has no causal language model of {', '.join(unknown)}")
    results = Results(chosen.results)
    for outcome in run_families(chosen.names or families(), results, chosen.limit, again=chosen.again):
        sys.stdout.write(f"{line(outcome)}\n")
        sys.stdout.flush()
    outcomes = [results.read(name) for name in families()]
    missing = sum(outcome is None for outcome in outcomes)
    if missing:
        sys.stdout.write(f"{missing} families have no outcome yet: {chosen.table} is left as it is.\n")
        return
    chosen.table.write_text(table([outcome for outcome in outcomes if outcome is not None]), encoding="utf-8")
    sys.stdout.write(f"Written to {chosen.table}.\n")


if __name__ == "__main__":
    main()
