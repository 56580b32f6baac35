"""`lora-studio import PATH`: an adapter made elsewhere is taken in."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_bytes
from lora_studio.jobs.spec import JobSpec


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("path", metavar="PATH", type=Path, help="an adapter folder of PEFT, mlx-lm or litgpt, or a .zip or .tar.gz of one")
    parser.add_argument("--base", metavar="MODEL", help="the base model it was trained on; by default the one it names")
    parser.add_argument("--name", help="what to call it here; by default its own name")
    parser.add_argument("--text-only", action="store_true", help="leave out what it changes of a part for images that is not used here")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Import, and print where it is kept and what to know about it."""
    path = str(arguments.path.expanduser().absolute())
    task = {"path": path, "base": arguments.base, "name": arguments.name, "text_only": arguments.text_only}
    with open_host("thread") as host:
        spec = JobSpec("lora_studio.export.imports.importer:import_task", task, title=f"Import {arguments.path.name}")
        result = run_job(console, host, spec)
    if arguments.json:
        console.json(result)
        return 0
    console.say(f"{result['name']}: {result['path']}, {in_bytes(result['bytes'])}, for {result['base']}")
    for finding in result["findings"]:
        console.say(f"{finding['level']}: {finding['message']} {finding['hint']}".rstrip())
    return 0
