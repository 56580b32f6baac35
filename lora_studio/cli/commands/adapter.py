"""`lora-studio adapter combine|compare|cut|scale|extract`: arithmetic with adapters."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_bytes, table
from lora_studio.jobs.spec import JobSpec

_TASKS = "lora_studio.export.arithmetic.tasks"
_METHODS = ("cat", "svd", "ties", "dare_linear", "dare_ties")


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    works = parser.add_subparsers(dest="work", metavar="WORK", required=True)
    combine = works.add_parser("combine", help="one adapter out of several of one base model")
    combine.add_argument("sources", metavar="SOURCE", nargs="+", help="runs, checkpoints or adapter folders")
    combine.add_argument(
        "--method",
        choices=_METHODS,
        default="cat",
        help="cat: the exact sum, ranks add up; svd: the nearest to it of a rank; ties and dare keep some entries",
    )
    combine.add_argument(
        "--weight", dest="weights", metavar="W", type=float, action="append", default=[], help="once for each; 1 by default"
    )
    combine.add_argument("--density", type=float, default=0.5, help="share of entries that ties and dare keep")
    combine.add_argument("--seed", type=int, default=0, help="of what dare drops")
    combine.add_argument("--r", type=int, help="rank of the result")
    compare = works.add_parser("compare", help="how two adapters get on, module by module")
    compare.add_argument("first", metavar="FIRST")
    compare.add_argument("second", metavar="SECOND")
    cut = works.add_parser("cut", help="a smaller rank")
    cut.add_argument("source", metavar="SOURCE")
    scale = works.add_parser("scale", help="another strength")
    scale.add_argument("source", metavar="SOURCE")
    scale.add_argument("--by", type=float, required=True, help="0.5 for half, 2 for twice")
    extract = works.add_parser("extract", help="an adapter out of a base model and one tuned from it")
    extract.add_argument("base", metavar="BASE")
    extract.add_argument("tuned", metavar="TUNED")
    for work in (cut, extract):
        work.add_argument("--r", type=int, help="the rank")
        work.add_argument("--energy", type=float, help="share of each module's squared change to keep, such as 0.95")
    for work in (combine, cut, scale, extract):
        work.add_argument("--to", metavar="PATH", required=True, help="the folder to make")
        work.add_argument("--overwrite", action="store_true", help="replace an earlier export at PATH")
    for work in (combine, compare, cut, scale, extract):
        work.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Do the work, and say what came of it."""
    task = {key: value for key, value in vars(arguments).items() if key in _ARGUMENTS[arguments.work]}
    with open_host("thread") as host:
        result = run_job(console, host, JobSpec(f"{_TASKS}:{arguments.work}", task, title=f"adapter {arguments.work}"))
    if arguments.json:
        console.json(result)
        return 0
    for line in _compared(result) if arguments.work == "compare" else _made(result):
        console.say(line)
    return 0


_ARGUMENTS = {
    "combine": {"sources", "to", "method", "weights", "r", "density", "seed", "overwrite"},
    "compare": {"first", "second"},
    "cut": {"source", "to", "r", "energy", "overwrite"},
    "scale": {"source", "to", "by", "overwrite"},
    "extract": {"base", "tuned", "to", "r", "energy", "overwrite"},
}


def _made(result: dict[str, Any]) -> Iterator[str]:
    certificate = result["certificate"]
    yield f"{result['path']}, {in_bytes(result['bytes'])}: {certificate['method']}, {certificate['modules']} modules"
    yield f"Passed ({certificate['verdict']}): {certificate['relative_error']:.2e} from what was meant, relative to its size"
    least = certificate.get("least_possible_error")
    if certificate["verdict"] == "approximate" and least is not None:
        yield f"No update of these ranks is nearer than {least:.2e}"
    if certificate.get("carried"):
        yield f"Gone along unchanged: {', '.join(certificate['carried'])}"
    left = certificate.get("left_out")
    if left and left["parameters"]:
        names = ", ".join(left["parameters"][:3])
        yield f"Changed and not carried by the adapter: {len(left['parameters'])} parameters, such as {names}"


def _compared(result: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            entry["module"],
            f"{entry['cosine']:+.3f}",
            f"{entry['sign_conflict']:.1%}",
            f"{entry['column_overlap']:.3f}",
            f"{entry['row_overlap']:.3f}",
        )
        for entry in result["modules"]
    ]
    if rows:
        yield from table([("module", "cosine", "signs apart", "same outputs", "same inputs"), *rows], right=(1, 2, 3, 4))
    if result["only_in_one"]:
        yield f"In one of them alone: {len(result['only_in_one'])} modules"
    yield result["verdict"]
