"""`lora-studio inspect MODEL`: the module tree."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from typing import Any

from lora_studio.cli.commands.models import ready_tree
from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host
from lora_studio.cli.units import in_bytes, table
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.models.facts import ModelFacts, read_facts
from lora_studio.models.quantization import NONE
from lora_studio.models.stored_quantization import stored_finding
from lora_studio.planning.device import find_device

_LAYER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "model", metavar="MODEL", help="a folder, a GGUF file, `starter` or a Hub id; a folder with only config.json will do"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    parser.add_argument("--json", action="store_true", help="one JSON document with every module")


def run(console: Console, arguments: Namespace) -> int:
    """Print a base model's facts and its modules."""
    with open_host("thread") as host:
        folder, tree = ready_tree(console, host, arguments.model, arguments.revision)
    facts = read_facts(folder)
    if arguments.json:
        console.json(inspect_document(arguments.model, facts, tree))
    else:
        _print_tree(console, arguments.model, facts, tree)
    return 0


def inspect_document(name_or_path: str, facts: ModelFacts, tree: ModuleTree) -> dict[str, Any]:
    """Return `inspect --json`; the root module is the model itself and not listed again."""
    return {
        "model": {
            "name_or_path": name_or_path,
            "architecture": tree.architecture,
            "parameters": tree.all_parameters,
            "dtype": facts.dtype,
            "layers": facts.layers,
            "tied_embeddings": tree.tied_embeddings,
            **({"quantization": facts.stored.said, "findings": [found.to_json() for found in _findings(facts)]} if facts.stored else {}),
        },
        "modules": [
            {
                "name": module.name,
                "class": module.class_name,
                "shape": list(module.shape),
                "parameters": module.parameters,
                "targetable": module.targetable,
                "reason": module.remark,
            }
            for module in tree.modules
            if module.name
        ],
    }


def _findings(facts: ModelFacts) -> list[Finding]:
    """Say what stands against loading a base that is quantized already."""
    found = stored_finding(facts.stored, NONE, find_device("auto").kind)
    return [found] if found else []


def _print_tree(console: Console, name_or_path: str, facts: ModelFacts, tree: ModuleTree) -> None:
    tied = ", tied embeddings" if tree.tied_embeddings else ""
    quantized = f", quantized: {facts.stored.said}" if facts.stored else ""
    stored = f"{facts.layers} layers, {facts.dtype}{tied}{quantized}"
    console.say(f"{name_or_path}: {tree.architecture}, {tree.all_parameters:,} parameters in {stored}")
    if facts.bytes_on_disk:
        console.say(f"{in_bytes(facts.bytes_on_disk)} on disk" + (f", licence {facts.licence}" if facts.licence else ""))
    for finding in _findings(facts):
        console.say(f"{finding.level}: {finding.message} {finding.hint}".rstrip())
    console.say()
    rows = [("module", "class", "shape", "parameters", "target")]
    for names, module in _alike(tree):
        shape = "×".join(str(size) for size in module.shape)
        target = "yes" if module.targetable and not module.idle else module.remark
        rows.append((_spanning(names), module.class_name, shape, f"{module.parameters:,}", target))
    for line in table(rows, right=(3,)):
        console.say(line)


def _alike(tree: ModuleTree) -> list[tuple[list[str], ModuleInfo]]:
    """Group modules that differ in their layer's number alone, in the order of the first of each group."""
    groups: dict[tuple[object, ...], tuple[list[str], ModuleInfo]] = {}
    for module in tree.modules:
        if not module.name:
            continue
        name, reason = _LAYER.sub("*", module.name), _LAYER.sub("*", module.remark)
        key = (name, module.class_name, module.shape, module.parameters, module.targetable, reason)
        groups.setdefault(key, ([], module))[0].append(module.name)
    return list(groups.values())


def _spanning(names: list[str]) -> str:
    """Write `model.layers.0` … `model.layers.29` as `model.layers.{0…29}`, where only the last number differs."""
    first, last = names[0], names[-1]
    if len(names) == 1:
        return first
    ends = iter(_LAYER.findall(last))
    return _LAYER.sub(lambda match: _span(match.group(), next(ends)), first)


def _span(first: str, last: str) -> str:
    return first if first == last else f"{{{first}…{last}}}"
