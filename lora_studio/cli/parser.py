"""What the command line understands."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from types import ModuleType

from lora_studio import __version__

_EPILOG = """\
examples:
  lora-studio                                        open the workbench with the last draft
  lora-studio run.yaml                               open it with these settings
  lora-studio inspect HuggingFaceTB/SmolLM2-135M-Instruct
  lora-studio plan run.yaml                          what would be trained, and does it fit?
  lora-studio train run.yaml --output my-run         train it, with a progress bar
  lora-studio export my-run --as merged --to my-model

Results go to standard output, everything else to standard error.
Exit status: 0 done, 1 failed while running, 2 the input is wrong, 130 stopped by you.
"""


@dataclass(frozen=True)
class Command:
    """A command by its name, what it does in a line, and in a sentence or two; its module has its name unless Python has that word."""

    name: str
    line: str
    text: str
    file: str = ""

    def module(self) -> ModuleType:
        """Import what the command does."""
        return importlib.import_module(f"lora_studio.cli.commands.{self.file or self.name}")


COMMANDS = (
    Command(
        "inspect",
        "the module tree of a base model",
        "Show a base model's modules: name, class, shape, parameters, and whether an adapter can go there or why not.",
    ),
    Command(
        "data",
        "what a data set is to its model",
        "Read, template and tokenize the data of a run config: rows, format, token lengths, share of trained tokens, and bad rows "
        "as file:line.",
    ),
    Command(
        "plan",
        "what would be trained, and whether it fits",
        "Resolve the targets of a run config: trainable parameters, adapter size, memory by part, and what to know before starting.",
    ),
    Command(
        "train",
        "train an adapter",
        "Train the adapter of a run config. Ctrl+C stops with the work saved; pressed again it abandons the step under way.",
    ),
    Command(
        "export",
        "export an adapter or a merged model",
        "Export a run, a checkpoint or any PEFT adapter folder. What was written is loaded again and compared before it gets its name.",
    ),
    Command(
        "import",
        "take in an adapter made elsewhere",
        "Import a PEFT adapter from a folder or a zip: its files are looked at before anything obeys them, its base model is found or "
        "given, and an adapter of another base model is refused.",
        file="import_adapter",
    ),
    Command(
        "adapter",
        "combine, compare, cut, scale or extract adapters",
        "Work with adapters by their updates: the sum of several, how two get on, a smaller rank, another strength, or one taken "
        "out of two full models. Each result is an ordinary PEFT folder with a certificate.",
    ),
    Command(
        "push",
        "put an export on the Hub",
        "Push an export to a model repository of the Hub, in one commit. The token is that of HF_TOKEN or `hf auth login`.",
    ),
    Command("chat", "ask the base model, the adapter, or both", "Ask a model something; without --prompt, one question after the other."),
    Command("runs", "the runs on this machine", "List the runs, the latest first."),
    Command(
        "doctor",
        "devices, versions, optional parts",
        "Look at the machine: devices, versions, optional parts and how to get them, folders.",
    ),
)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; only the command `only` gets its arguments, since they alone cost an import."""
    parser = argparse.ArgumentParser(
        prog="lora-studio",
        usage="lora-studio [RUN.yaml | RUN_DIR | MODEL]\n       lora-studio COMMAND …",
        description="A workbench for low-rank adaptation of language models. Without a command it opens the window.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lora-studio {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        below = commands.add_parser(
            command.name, help=command.line, description=command.text, allow_abbrev=False, prog=f"lora-studio {command.name}"
        )
        if command.name == only:
            command.module().add_arguments(below)
    return parser
