"""`RunConfig` as YAML: read with errors that name the file, the line and the field; written so that it reads back equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lora_studio.core.config import SCHEMA_VERSION, RunConfig
from lora_studio.core.errors import InputError
from lora_studio.core.files import write_atomically
from lora_studio.core.settings import HUB_SCHEME

AS_BEFORE: Mapping[str, object] = {
    "data.chat_template_kwargs": {},
    "data.on_unwritten": "without",
    "data.answer_opening": "context",
}
"""Settings that came after the first runs were trained, and what was done before they were there."""

_MOST_BYTES = 4 << 20
# libyaml's loader reads the same, ten times as fast: a list of thousands of runs needs it.
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(path: Path) -> RunConfig:
    """Read a config file; relative data and model paths in it are taken from its folder.

    Raises:
        InputError: The file is missing, no YAML, or no config; the message names file, line and field.
    """
    text = _read_text(path)
    config = parse_config(text, name=str(path))
    return resolve_paths(config, path.resolve().parent)


def parse_config(text: str, name: str = "config") -> RunConfig:
    """Read a config from YAML text; `name` stands for it in messages.

    Raises:
        InputError: As `read_config`; `field` is the dotted path of the first field at fault.
    """
    try:
        tree: object = yaml.load(text, Loader=_SAFE_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        lines = (min(mark.line, text.count("\n")) + 1,) if mark else ()  # the end of the text lies behind its last line
        where = f"{name}:{lines[0]}" if lines else name
        raise InputError(f"{where}: this is not valid YAML: {getattr(error, 'problem', error)}.", "Mend the line.", lines=lines) from error
    except (ValueError, RecursionError) as error:  # an impossible date, brackets without end
        raise InputError(f"{name}: this is not valid YAML: {error}.", "Put quotes around values that are no numbers or dates.") from error
    if not isinstance(tree, dict):
        raise InputError(f"{name}: a run config is a mapping of settings, such as `name: my-run`.", "See the starter's run.yaml.")
    return validate_config(tree, name=name, text=text)


def read_run_config(text: str, name: str = "config") -> tuple[RunConfig, tuple[str, ...]]:
    """Read the `run.yaml` of a run, which names every setting that there was when the run began; give the paths it is too old to name, too.

    Those get the values by which the run's tokens are what they were then, not today's defaults.

    Raises:
        InputError: As `parse_config`.
    """
    parsed = parse_config(text, name)
    tree: Any = yaml.load(text, Loader=_SAFE_LOADER)
    named = tree.get("data") or {}
    missing = tuple(path for path in AS_BEFORE if path.partition(".")[2] not in named)
    return parsed.replace({path: AS_BEFORE[path] for path in missing}), missing


def validate_config(tree: Mapping[str, Any], name: str = "config", text: str = "") -> RunConfig:
    """Check a plain tree against `RunConfig`.

    Raises:
        InputError: A key is unknown or a value out of its range; every fault is listed, `field` is the first one's path.
    """
    version = tree.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{name}: schema_version {version!r} is not known here; this release reads {SCHEMA_VERSION}.",
            "Open it with the release that wrote it.",
            "schema_version",
        )
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise _readable(error, name, text) from error


def config_to_yaml(config: RunConfig) -> str:
    """Write every field of a config as YAML, in order."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def write_config(path: Path, config: RunConfig) -> None:
    """Replace the file at `path` by this config, whole or not at all."""
    write_atomically(path, config_to_yaml(config))


def resolve_paths(config: RunConfig, folder: Path) -> RunConfig:
    """Make the relative paths of data files, of a local base model and of an adapter to begin from absolute, from `folder`."""
    changes: dict[str, object] = {
        path: tuple(entry if entry.startswith(HUB_SCHEME) else str(_absolute(entry, folder)) for entry in config.get(path))
        for path in ("data.train", "data.eval")
    }
    if config.adapter.warm_start:
        changes["adapter.warm_start"] = str(_absolute(config.adapter.warm_start, folder))
    local = _absolute(config.model.name_or_path, folder)
    if local.exists():
        changes["model.name_or_path"] = str(local)
    return config.replace(changes)


def field_errors(error: ValidationError) -> dict[str, str]:
    """Return each faulty field's dotted path and what is wrong with it, as a sentence's end."""
    found: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        path = _field_of(entry["loc"])
        found.setdefault(path, _sentence(entry))
    return found


def _absolute(entry: str, folder: Path) -> Path:
    path = Path(entry).expanduser()
    return path if path.is_absolute() else folder / path


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is too large for a run config.", "Give the YAML file of a run.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.", "Give the path of a run config (YAML).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error


def _field_of(location: tuple[int | str, ...]) -> str:
    """Cut pydantic's location to our field: union branches and positions within a value are left off."""
    parts: list[str] = []
    section: Any = RunConfig
    for part in location:
        if not (isinstance(section, type) and hasattr(section, "model_fields")):
            break
        parts.append(str(part))
        info = section.model_fields.get(part)
        section = info.annotation if info else None
    return ".".join(parts)


def _sentence(entry: Any) -> str:
    kind = entry["type"]
    if kind == "extra_forbidden":
        return "is no setting of this release"
    message = str(entry["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    given = entry.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) and kind != "value_error" else ""
    return message[:1].lower() + message[1:] + shown


def _readable(error: ValidationError, name: str, text: str) -> InputError:
    faults = field_errors(error)
    keys = _key_lines(text)
    at = {path: _line_of(path, keys) for path in faults}
    told = "; ".join(f"{name}{f':{at[path]}' if at[path] else ''}: {path or 'config'} {fault}" for path, fault in faults.items())
    return InputError(f"{told}.", "Mend the settings named.", next(iter(faults)), tuple(line for line in at.values() if line))


def _line_of(path: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of a setting, or of the section it is missing from."""
    while path and path not in lines:
        path = path.rpartition(".")[0]
    return lines.get(path)


def _key_lines(text: str) -> dict[str, int]:
    """Map each key's dotted path to the line it stands on, counted from 1."""
    lines: dict[str, int] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                path = f"{prefix}{key.value}"
                lines[path] = key.start_mark.line + 1
                walk(value, f"{path}.")

    walk(yaml.compose(text, Loader=_SAFE_LOADER) if text else None, "")  # as it was read: the two loaders differ over tabs
    return lines
