"""`lora-studio plan RUN.yaml`: targets, parameters, adapter size, memory by part, findings."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lora_studio.cli.commands.models import ready_tree
from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_bytes, table
from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import read_config
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.targets import resolve
from lora_studio.core.world import launch_command
from lora_studio.data.check import bad_rows_finding
from lora_studio.data.report import DataReport, TokenCounts
from lora_studio.data.rows.row import BadRow
from lora_studio.inference.warm_start import NewAdapter, warm_start_findings
from lora_studio.jobs.host import Host
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.facts import read_facts
from lora_studio.planning.plan import Plan, make_plan

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_SHOWN_TARGETS = 8


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("config", metavar="RUN.yaml", type=Path, help="a run config; its model may be a folder with only config.json")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Print what a config comes to; exit status 2 when it could not be trained as it is."""
    config = read_config(arguments.config)
    with open_host("thread") as host:
        folder, tree = ready_tree(console, host, config.model.name_or_path, config.model.revision)
        data = _data_figures(console, host, config, folder)
    resolution = resolve(config.adapter, tree)
    warm_start = warm_start_findings(NewAdapter(config.adapter, tree, resolution, folder))
    plan = make_plan(config, read_facts(folder), tree, data, resolution=resolution, found=warm_start)
    if arguments.json:
        console.json(plan.to_json())
    else:
        _print_plan(console, plan)
        if config.training.num_processes > 1:
            console.say(f"\nStart it with: {launch_command(arguments.config, config.training.num_processes)}")
    errors = [finding for finding in plan.findings if finding.level == "error"]
    if errors:
        first = errors[0]
        console.error(InputError(f"{arguments.config}: {first.message}", first.hint, first.field))
    return InputError.exit_status if errors else 0


def _data_figures(console: Console, host: Host, config: RunConfig, folder: Path) -> DataReport | None:
    """Count the tokens of the config's data; None without data, or without a tokenizer to count them with."""
    if not config.data.train or not any((folder / name).is_file() for name in _TOKENIZER):
        return None
    task = {"config": config.model_dump(mode="json"), "model_folder": str(folder)}
    result = run_job(console, host, JobSpec("lora_studio.data.tasks:report", task, title="Count the tokens"))
    bad_rows = tuple(BadRow(**row) for row in result["bad_rows"])
    bad = bad_rows_finding(bad_rows, config.data.on_bad_rows, result["bad_count"])
    return DataReport(
        rows=result["rows"],
        format=result["format"],
        tokens=TokenCounts(**result["tokens"]),
        bad_rows=bad_rows,
        truncated_rows=result["truncated_rows"],
        untrained_rows=result["untrained_rows"],
        findings=(*([bad] if bad else ()), *(Finding(**found) for found in result["findings"])),
    )


def _print_plan(console: Console, plan: Plan) -> None:
    names = [target.name for target in plan.resolution.targets]
    share = plan.trainable_parameters / plan.all_parameters if plan.all_parameters else 0.0
    console.say(f"{len(names)} modules get an adapter:")
    for name in names[:_SHOWN_TARGETS]:
        console.say(f"  {name}")
    if len(names) > _SHOWN_TARGETS:
        console.say(f"  and {len(names) - _SHOWN_TARGETS} more (--json lists all)")
    console.say(
        f"{plan.trainable_parameters:,} of {plan.all_parameters:,} parameters are trained ({share:.2%}); "
        f"the adapter's file takes {in_bytes(plan.adapter_bytes)}"
    )
    memory = plan.memory
    console.say()
    console.say(
        f"Memory of a step on {memory.device}: about {in_bytes(memory.peak_bytes)} of {in_bytes(memory.capacity_bytes)}, "
        + ("fits" if memory.fits else "does not fit")
    )
    for line in table([(f"  {part}", in_bytes(size)) for part, size in memory.parts.items()], right=(1,)):
        console.say(line)
    for finding in plan.findings:
        console.say(f"{finding.level}: {finding.message}" + (f" {finding.hint}" if finding.hint else ""))
