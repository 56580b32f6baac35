"""Make resources/starter/tree.json anew: `python -m tests.models.write_starter_tree`."""

from __future__ import annotations

from pathlib import Path

from lora_studio.core.control import TaskContext
from lora_studio.models.inspect import empty_model, tree_of
from lora_studio.models.prepare import prepare
from lora_studio.models.tree_cache import config_hash, starter_file, write_tree


def main() -> None:
    for event in prepare(TaskContext(), "starter"):
        if event.event == "run_finished":
            folder = Path(event.result["path"])
            write_tree(starter_file(), config_hash(folder), tree_of(empty_model(folder)))


if __name__ == "__main__":
    main()
