"""`lora-studio push FOLDER OWNER/NAME`: an export goes to the Hub."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_bytes
from lora_studio.export.push.push import check_push, require_token
from lora_studio.jobs.spec import JobSpec


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="an export, with its certificate")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; made where there is none, other files in it stay")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--private", dest="private", action="store_true", default=True, help="seen by its owner alone (the default)")
    seen.add_argument("--public", dest="private", action="store_false", help="seen by everyone")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch to commit to; by default the main one")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Push, and print where it is."""
    folder = arguments.folder.expanduser().resolve()
    check_push(folder, arguments.repo_id, arguments.revision)
    require_token()
    task = {"folder": str(folder), "repo_id": arguments.repo_id, "private": arguments.private, "revision": arguments.revision}
    with open_host("thread") as host:
        result = run_job(console, host, JobSpec("lora_studio.export.push.push:push", task, title=f"Push {folder.name}"))
    if arguments.json:
        console.json(result)
        return 0
    seen = "private" if result["private"] else "public"
    console.say(f"{result['url']}: {seen}, {len(result['files'])} files, {in_bytes(result['bytes'])}, commit {result['commit'][:8]}")
    if result["left_out"]:
        console.say(f"Not pushed, being no part of an export: {', '.join(result['left_out'])}")
    return 0
