"""`lora-studio export SOURCE --as adapter|merged|gguf|gguf-adapter|mlx-adapter --to PATH`: an artefact and its certificate."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_bytes
from lora_studio.export.destination import CERTIFICATE_PAGE, check_destination
from lora_studio.export.gguf.llama_cpp import FETCH_MEGABYTES
from lora_studio.export.merge.into import AUTO
from lora_studio.export.request import BYTES_OF_DTYPE, KINDS, OUTTYPES
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.quantization import NONE

_FIGURES = (
    ("max_abs_logit_difference", "largest logit difference {:.2e}"),
    ("top1_agreement", "same first choice at {:.1%} of positions"),
    ("effect_lost", "{:.1%} of the adapter's effect lost to rounding"),
    ("update_lost", "{:.1%} of the update to the weights"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a run, a checkpoint or any PEFT adapter folder")
    parser.add_argument(
        "--as",
        dest="kind",
        choices=KINDS,
        required=True,
        help="adapter: a folder for PeftModel.from_pretrained; merged: one for AutoModelForCausalLM.from_pretrained; "
        "gguf: the merged model for llama.cpp and Ollama; gguf-adapter: the adapter for llama.cpp; "
        "mlx-adapter: the adapter for mlx-lm",
    )
    parser.add_argument("--to", metavar="PATH", type=Path, required=True, help="the folder to make")
    parser.add_argument("--dtype", choices=list(BYTES_OF_DTYPE), help="of the merged weights; by default each tensor's own")
    parser.add_argument("--quantize", dest="outtype", choices=OUTTYPES, default="f16", help="how a GGUF model's weights are written")
    parser.add_argument(
        "--fetch-converter", action="store_true", help=f"fetch llama.cpp's converter ({FETCH_MEGABYTES} MB) where it is not here"
    )
    parser.add_argument(
        "--into",
        metavar="auto|original|dequantized|MODEL",
        default=AUTO,
        help="of an adapter trained on a base in 4 or 8 "
        "bits: merge into the base in full precision (or name it), or into the base as it was held, unpacked; by default "
        "into the base's own files, unpacked where they are quantized",
    )
    parser.add_argument(
        "--check",
        choices=["auto", "tensors"],
        default="auto",
        help="auto runs the artefact where it fits into memory; tensors reads and recomputes each of its tensors alone",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at PATH")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Export, and print the certificate."""
    target = arguments.to.expanduser().resolve()
    check_destination(target, overwrite=arguments.overwrite)
    task = {
        "source": str(arguments.source),
        "kind": arguments.kind,
        "to": str(target),
        "dtype": arguments.dtype,
        "overwrite": arguments.overwrite,
        "check": arguments.check,
        "into": arguments.into,
        "outtype": arguments.outtype,
    }
    with open_host("thread") as host:
        if arguments.fetch_converter:
            run_job(console, host, JobSpec("lora_studio.export.gguf.llama_cpp:fetch_converter", {}, title="Fetch llama.cpp's converter"))
        spec = JobSpec("lora_studio.export.task:export", task, title=f"Export {arguments.source}", device=True)
        result = run_job(console, host, spec)
    if arguments.json:
        console.json(export_document(result))
    else:
        for line in _told(result):
            console.say(line)
    return 0


def export_document(result: dict[str, Any]) -> dict[str, Any]:
    """Return `export --json`: the whole certificate, where it can be served, and what the base was held in while training."""
    document = {"path": result["path"], "kind": result["kind"], "bytes": result["bytes"], "certificate": result["certificate"]}
    if "compatibility" in result:
        document["compatibility"] = result["compatibility"]
    held = result["base_quantization"]
    return document if held == NONE else {**document, "base_quantization": held}


def _told(result: dict[str, Any]) -> Iterator[str]:
    found = result["certificate"]
    yield f"{result['kind']}: {result['path']}, {in_bytes(result['bytes'])}"
    figures = "; ".join(form.format(found[key]) for key, form in _FIGURES if found.get(key) is not None)
    verdict = "Passed" if found["passed"] else "Failed"
    if found["grade"] == "logits":
        yield f"{verdict} ({found['verdict']}): loaded again by {found['loaded_by']} and compared on {found['rows']} rows: {figures}"
    else:
        checked = f"{found['tensors_checked']} tensors read again and recomputed, not run"
        yield f"{verdict} ({found['verdict']}): {checked}: {figures or 'all alike'}"
    if found.get("offers_float32"):
        yield "Rounding cost more than 5%: with --dtype float32 nothing is lost"
    trained = found.get("trained_base")
    if trained:
        against = f": same first choice at {trained['top1_agreement']:.1%} of positions" if "top1_agreement" in trained else ""
        yield f"The adapter was trained on the base held in {trained['held_in']}; set against that{against or ' it was not compared'}"
        if "merged_into" in trained:
            apart = f", whose weights differ by {trained['weights_apart']:.1%}" if "weights_apart" in trained else ""
            yield f"Merged into {trained['merged_into']}{apart}"
        elif "compared_with" in trained:
            yield f"Compared on {trained['compared_with']}"
        if "full_precision" in trained:
            made_from = trained["full_precision"]
            yield f"That base was quantized from {made_from['name']}; their weights differ by {made_from['weights_apart']:.1%}"
    if result["kind"] == "merged":
        for program in result.get("compatibility", ()):
            if program["answer"] != "yes":
                yield f"{program['program']} {program['reason']}. {program['remedy']}".strip()
    yield f"The whole certificate: {Path(result['path']) / CERTIFICATE_PAGE}"
