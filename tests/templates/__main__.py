"""`python -m tests.templates [PART OF A NAME …] [--docs FILE] [--verbose]`: published templates by kinds of rows, and what is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.templates.marks import published
from tests.templates.table import Tally, look_at, page, printed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.templates", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of templates' names; all without any")
    parser.add_argument("--docs", type=Path, help="write the table as Markdown, too")
    parser.add_argument("--verbose", action="store_true", help="name every row that something is wrong with")
    arguments = parser.parse_args()
    paths = [path for path in published() if not arguments.names or any(name in path.name for name in arguments.names)]
    if not paths:
        sys.stderr.write("No published templates stand beside the checkout.\n")
        return 2
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            tallies.append(look_at(path, Path(folder)))
            sys.stdout.write(printed(tallies[-1], verbose=arguments.verbose) + "\n")
            sys.stdout.flush()
    sys.stdout.write(printed(Tally.sum(tallies), verbose=False) + "\n")
    if arguments.docs:
        arguments.docs.write_text(page(tallies), encoding="utf-8")
    return 1 if any(tally.wrong for tally in tallies) else 0


if __name__ == "__main__":
    raise SystemExit(main())
