"""What a job is to do, as plain data: it can be handed to a thread or sent to a child."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from lora_studio.core.engine_import import import_part
from lora_studio.core.errors import StudioError
from lora_studio.core.events import RunEvent

Task = Callable[..., Generator[RunEvent]]


_MOVED = {
    "lora_studio.data.lens": "lora_studio.data.tokens.lens",
    "lora_studio.export.arithmetic": "lora_studio.export.arithmetic.tasks",
    "lora_studio.export.hub": "lora_studio.export.push.push",
    "lora_studio.export.imports": "lora_studio.export.imports.importer",
    "lora_studio.export.llama_cpp": "lora_studio.export.gguf.llama_cpp",
    "lora_studio.generate.chat": "lora_studio.inference.chat",
    "lora_studio.gui.data_page.template_task": "lora_studio.data.templates.task",
    "lora_studio.gui.data_task": "lora_studio.data.tasks",
}
"""Modules of tasks as release 0.1.0 called them."""
_RENAMED = {"lora_studio.data.report:report": "lora_studio.data.tasks:report"}


@dataclass(frozen=True)
class JobSpec:
    """A task and what it is given.

    Attributes:
        target: The task, a generator function `task(context, **arguments)`, as `package.module:function`.
        arguments: Its keyword arguments, all JSON.
        title: What a person reads in the list of jobs.
        device: Whether it uses the model's device: such jobs run one after the other, on the thread that owns the loaded model.
        run_dir: The run's folder when the job is a run: its events are kept there. The task itself gets only `arguments`.
        survives: Whether a child goes on when the host that started it is gone; for runs in a process only.
    """

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    device: bool = False
    run_dir: str | None = None
    survives: bool = False

    def to_json(self) -> str:
        """Write the spec as one line of JSON.

        Raises:
            TypeError: An argument is not JSON.
        """
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> JobSpec:
        """Read a spec back.

        Raises:
            ValueError: It is no spec.
        """
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not a job: {error}") from error

    @property
    def task_name(self) -> str:
        """The task's name as it is called today, whichever release wrote the spec."""
        module_name, _, function = self.target.partition(":")
        return _RENAMED.get(self.target) or f"{_MOVED.get(module_name, module_name)}:{function}"

    @property
    def is_imported(self) -> bool:
        """Whether the task's module is there already, so that `resolve` answers at once."""
        return self.task_name.partition(":")[0] in sys.modules

    def resolve(self) -> Task:
        """Import the task; call it on the thread that is to run it, since the import may be heavy.

        Raises:
            StudioError: There is no such module or function.
        """
        module_name, _, function = self.task_name.partition(":")
        try:
            # What runs on the device imports the engine at its top.
            module = import_part(module_name) if self.device else importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            own = not error.name or f"{module_name}.".startswith(f"{error.name}.")
            missing = f"There is no module {module_name}" if own else f"{error.name} is not installed, which {module_name} needs"
            raise StudioError(f"{missing}: the task {self.target} cannot run.", "Install the project again.") from error
        task: object = getattr(module, function, None)
        if not callable(task):
            raise StudioError(f"The module {module_name} has no task {function!r}.", "A task is named package.module:function.")
        return cast("Task", task)
