"""`lora-studio data RUN.yaml`: what the rows are to the model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from lora_studio.cli.commands.models import ready_folder
from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.core.config_files import read_config
from lora_studio.data.check import DataCheck, check_files, refuse_no_rows
from lora_studio.data.trainable import refuse_untrainable
from lora_studio.jobs.spec import JobSpec

_SHOWN_BAD_ROWS = 20


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("config", metavar="RUN.yaml", type=Path, help="a run config")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Print what the config's data is: rows, format, token lengths, share of trained tokens, bad rows."""
    config = read_config(arguments.config)
    check = check_files(config.data)  # what is wrong with a file shows before a model is made ready
    refuse_untrainable(check, config.training.method)
    refuse_no_rows(check)
    with open_host("thread") as host:
        folder = ready_folder(console, host, config.model.name_or_path, config.model.revision)
        task = {"config": config.model_dump(mode="json"), "model_folder": str(folder)}
        report = run_job(console, host, JobSpec("lora_studio.data.tasks:report", task, title="Read the data"))
    if arguments.json:
        console.json({**report, **_facts(check, report)})
    else:
        _print_files(console, check)
        _print_report(console, report, config.data.max_length)
        _print_bad_rows(console, report, check)
    return 0


def _facts(check: DataCheck, report: dict[str, Any]) -> dict[str, Any]:
    """Return what the files tell beside the tokens. Rows that the chat template refuses are bad ones, too."""
    facts = check.to_json()
    return {
        **{key: facts[key] for key in ("files", "duplicate_rows", "shared_rows", "encoding_offer")},
        "bad_count": check.bad_count + max(0, len(report["bad_rows"]) - len(check.bad_rows)),
    }


def _print_files(console: Console, check: DataCheck) -> None:
    for file in check.files:
        held = "held out, " if file.split == "eval" else ""
        told = f"{file.format} ({file.reason})" if file.format else "no format told"
        console.say(f"{file.path}: {held}{file.rows:,} rows, {file.bad_rows:,} bad, {told}")
    if check.duplicate_rows:
        console.say(f"{check.duplicate_rows:,} training rows repeat one before them")
    if check.shared_rows:
        console.say(f"{check.shared_rows:,} training rows stand in the evaluation data, too")


def _print_report(console: Console, report: dict[str, Any], max_length: int) -> None:
    tokens = report["tokens"]
    share = tokens["trained"] / tokens["total"] if tokens["total"] else 0.0
    console.say(f"{report['rows']:,} rows, format {report['format']}")
    console.say(f"{tokens['total']:,} tokens, {tokens['trained']:,} of them trained ({share:.0%})")
    console.say(f"Row length: half up to {tokens['p50']:,} tokens, 95% up to {tokens['p95']:,}, longest {tokens['max']:,}")
    if report["truncated_rows"]:
        console.say(f"{report['truncated_rows']:,} rows are cut to max_length {max_length:,}")
    if report["untrained_rows"]:
        console.say(f"{report['untrained_rows']:,} rows have nothing to learn within max_length {max_length:,} and are left out")
    for found in report["findings"]:
        console.say(f"{found['level']}: {found['message']}" + (f" {found['hint']}" if found["hint"] else ""))


def _print_bad_rows(console: Console, report: dict[str, Any], check: DataCheck) -> None:
    bad, count = report["bad_rows"], int(_facts(check, report)["bad_count"])
    console.say(f"{count:,} bad rows" + (":" if bad else ""))
    for row in bad[:_SHOWN_BAD_ROWS]:
        console.say(f"  {row['file']}:{row['line']}: {row['reason']}")
    if count > _SHOWN_BAD_ROWS:
        console.say(f"  and {count - _SHOWN_BAD_ROWS:,} more (--json lists {'all' if count == len(bad) else f'{len(bad):,}'})")
    if check.encoding_offer:
        others = f" (so they do as {', '.join(check.other_encodings)})" if check.other_encodings else ""
        console.say(f"Lines that are not UTF-8 read as {check.encoding_offer}{others}: set data.encoding to {check.encoding_offer}")
