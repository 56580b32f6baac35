"""`RunConfig`: everything that decides a run, in one frozen tree.

The forms on screen, the YAML file, the command line and the run folder are views of it. A field's constraints give its
editor's range, its description the tooltip, a validation error's location the widget to mark. Names are PEFT's and
transformers' own. `step` always means an optimizer step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from lora_studio.core.setting_types import Section
from lora_studio.core.settings import AdapterSettings, DataSettings, ModelSettings
from lora_studio.core.training_settings import TrainingSettings

SCHEMA_VERSION = 1


class RunConfig(Section):
    """Everything that decides a run."""

    schema_version: Literal[1] = Field(default=SCHEMA_VERSION, title="Schema version", description="Version of this layout.")
    name: str = Field(
        default="untitled",
        min_length=1,
        max_length=80,
        pattern=r"^[\w][\w .+-]*$",
        title="Name",
        description="Names the run and its folder: letters, digits, spaces, and . _ + -",
    )
    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()

    def replace(self, changes: Mapping[str, object]) -> RunConfig:
        """Return a config with `{dotted path: value}` changed, all of it validated at once.

        Raises:
            pydantic.ValidationError: Some value is out of its range; `errors()[i]["loc"]` is its path.
            KeyError: A path names no field.
        """
        tree = self.model_dump()
        for path, value in changes.items():
            *parents, last = path.split(".")
            section: dict[str, Any] = tree
            for parent in parents:
                section = section[parent]
            if last not in section:
                raise KeyError(path)
            section[last] = value
        return RunConfig.model_validate(tree)

    def get(self, path: str) -> Any:
        """Return the value at a dotted path such as `adapter.r`."""
        value: Any = self
        for part in path.split("."):
            value = getattr(value, part)
        return value

    def differences(self, other: RunConfig) -> tuple[str, ...]:
        """Name the paths at which two configs differ, in the order of the fields."""
        return tuple(path for path in field_paths() if self.get(path) != other.get(path))


def field_paths() -> Iterator[str]:
    """Name every leaf of a `RunConfig` by its dotted path, in order; `schema_version` is none."""
    for name, info in RunConfig.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, Section):
            yield from (f"{name}.{field}" for field in section.model_fields)
        elif name != "schema_version":
            yield name


def field_info(path: str) -> Any:
    """Return pydantic's `FieldInfo` of the leaf at a dotted path.

    Raises:
        KeyError: The path names no field.
    """
    info: Any = None
    section: Any = RunConfig
    for part in path.split("."):
        info = section.model_fields[part]
        section = info.annotation
    return info
