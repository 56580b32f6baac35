"""`lora-studio export SOURCE --as adapter|merged --to PATH`: an artefact and its certificate."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_bytes
from lora_studio.export.destination import check_destination
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.quantization import NONE, SAID

_CERTIFICATE = ("rows", "max_abs_logit_difference", "top1_agreement", "effect_lost", "passed")


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a run, a checkpoint or any PEFT adapter folder")
    parser.add_argument("--as", dest="kind", choices=["adapter", "merged"], required=True,
                        help="adapter: a folder for PeftModel.from_pretrained; merged: one for AutoModelForCausalLM.from_pretrained")
    parser.add_argument("--to", metavar="PATH", type=Path, required=True, help="the folder to make")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the merged weights; by default the base model's")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at PATH")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Export, and print the certificate."""
    target = arguments.to.expanduser().resolve()
    check_destination(target, overwrite=arguments.overwrite)
    task = {
        "source": str(arguments.source), "kind": arguments.kind, "to": str(target), "dtype": arguments.dtype,
        "overwrite": arguments.overwrite,
    }
    spec = JobSpec("lora_studio.export.task:export", task, title=f"Export {arguments.source}", device=True)
    with open_host("thread") as host:
        result = run_job(console, host, spec)
    if arguments.json:
        console.json(export_document(result))
    else:
        _print_certificate(console, result)
    return 0


def export_document(result: dict[str, Any]) -> dict[str, Any]:
    """Give `export --json`, with what the base was held in while training where that was not full precision.

    Everything else is in the folder's certificate.json.
    """
    certificate = {key: result["certificate"][key] for key in _CERTIFICATE}
    document = {"path": result["path"], "kind": result["kind"], "bytes": result["bytes"], "certificate": certificate}
    held = result["base_quantization"]
    return document if held == NONE else {**document, "base_quantization": held}


def _print_certificate(console: Console, result: dict[str, Any]) -> None:
    found = result["certificate"]
    console.say(f"{result['kind']}: {result['path']}, {in_bytes(result['bytes'])}")
    console.say(f"{'Passed' if found['passed'] else 'Failed'}: loaded again and compared on {found['rows']} rows; largest logit difference "
                f"{found['max_abs_logit_difference']:.2e}, same first choice at {found['top1_agreement']:.1%} of positions, "
                f"{found['effect_lost']:.1%} of the adapter's effect lost to rounding")
    held = SAID[result["base_quantization"]]
    if held:
        console.say(f"The adapter was trained on the base held in {held}; this is compared with base + adapter in full precision")
