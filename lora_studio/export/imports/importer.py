"""Importing an adapter that was made elsewhere: its files taken and looked at, its base model found, the whole kept under a name. No torch
here until a base model's modules have to be seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.files import bytes_below, sha256_of, whole_folder
from lora_studio.core.findings import Finding
from lora_studio.core.paths import studio_paths
from lora_studio.export.imports.adapter_files import TAKEN, take_adapter
from lora_studio.export.imports.archive import ARCHIVES
from lora_studio.export.imports.base_fit import adapted_names, adapter_tensors, check_base, tree_of
from lora_studio.export.imports.base_search import FoundBase, find_base
from lora_studio.export.imports.class_keys import fit_class
from lora_studio.export.imports.foreign_config import read_foreign_config, replace_patterns
from lora_studio.export.imports.foreign_keys import fit_keys, rename_keys
from lora_studio.export.imports.fused_experts import MERGE, FusedExperts, fuse_experts, is_on_parameters, refuse_lost, see_strengths
from lora_studio.export.imports.litgpt_format import from_litgpt, is_litgpt
from lora_studio.export.imports.torchtune_fit import refuse_unsaid_dora, torchtune_findings
from lora_studio.export.mlx.format import FUSE, from_mlx, is_mlx, refuse_tied
from lora_studio.export.moved_settings import moved_settings, renamed, strengths_of
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_of
from lora_studio.models.check import read_json, read_model_config, refuse_code

RECORD_NAME = "imported.json"
_NAME = re.compile(r"[\w][\w.-]{0,79}")
_MOST_LEFT = 10


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter kept here.

    Attributes:
        folder: An ordinary PEFT adapter folder, with the record of its import beside.
        base: What its base model is called here.
        revision: The base's revision, where one was named.
        findings: What to know about it.
    """

    folder: Path
    base: str
    revision: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.folder.name

    def to_json(self) -> dict[str, Any]:
        """Return `import --json`."""
        return {
            "name": self.name,
            "path": str(self.folder),
            "base": self.base,
            "revision": self.revision,
            "bytes": bytes_below(self.folder),
            "findings": [finding.to_json() for finding in self.findings],
        }


def import_task(
    context: TaskContext, path: str, base: str | None = None, name: str | None = None, text_only: bool = False
) -> Iterator[RunEvent]:
    """Task: import an adapter; the result is `ImportedAdapter.to_json()`.

    Args:
        context: The host's; cancelled, nothing is kept.
        path: A PEFT adapter folder, or a zip or tar of one.
        base: The base model it was trained on; None for what it says itself.
        name: What to call it here; None for the name it has, with a number behind where that is taken.
        text_only: See `import_adapter`.
    """
    source = Path(path).expanduser().absolute()
    yield Phase(name="checking", message=f"Looking at {source.name}")
    into = place_for(source, name)

    def look() -> None:
        context.control.check()

    def told(message: str) -> None:
        context.control.check()
        context.post(Phase(name="checking", message=message))

    found = import_adapter(source, into, base, text_only=text_only, look=look, tell=told)
    yield RunFinished(result=found.to_json())


def import_adapter(
    path: Path,
    into: Path,
    base: str | None = None,
    *,
    text_only: bool = False,
    look: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda _message: None,
) -> ImportedAdapter:
    """Take an adapter in, whole or not at all.

    Args:
        path: A PEFT adapter folder, or a zip or tar of one.
        into: The folder to make.
        base: The base model it was trained on; None for what it says itself.
        text_only: Whether what it changes of a part for images, which the class used here has not, is left out.
        look: Called between blocks of files; may raise to end it.
        tell: Told what comes next.

    Raises:
        InputError: It is no adapter, or a hostile or damaged one; or its base model is wrong, or not here (field `base`); or it changes
            a part for images that has no place here (field `text_only`).
        StudioError: The disk does not take it.
    """
    try:
        with whole_folder(into) as folder:
            left = take_adapter(path, folder, look)
            by_mlx = is_mlx(folder)
            taken_over = from_mlx(folder) if by_mlx else from_litgpt(folder) if is_litgpt(folder) else []
            config, findings = _looked_at(folder)
            named = str(config.get("base_model_name_or_path") or "")
            tell("Finding the base model")
            found = find_base(named, config.get("revision"), base)
            findings += [*taken_over, *_without_code(folder), *found.findings, *_left(left)]
            if found.folder is not None:
                tell(f"Comparing with {found.name}")
                family = str(read_model_config(found.folder).get("model_type", ""))
                findings += torchtune_findings(config, adapted_names(adapter_tensors(folder)), left, family)
                config, fitted = _fitted(folder, found, config, by_mlx=by_mlx, text_only=text_only)
                findings += [*fitted, *check_base(folder, found.folder, found.name, named)]
            refuse_unsaid_dora(config, (tensor.part for tensor in adapter_tensors(folder)))
            _write(folder, config, found, named, findings)
    except OSError as error:
        hint = "Nothing was kept. Free some space, then try again."
        raise StudioError(f"Keeping the adapter failed: {error.strerror or error}.", hint) from error
    return ImportedAdapter(into, found.name, found.revision, tuple(findings))


def imported_adapters() -> list[ImportedAdapter]:
    """List the adapters that were imported, by name; what is no longer whole is left out."""
    found: list[ImportedAdapter] = []
    for folder in sorted(studio_paths().adapters.glob("[!.]*")):
        try:
            base, revision = base_of(folder)
        except InputError:
            continue  # a list shows what can be used; naming the folder itself says what is wrong with it
        if (folder / ADAPTER_WEIGHTS).is_file():
            found.append(ImportedAdapter(folder, base, revision, tuple(_recorded_findings(folder))))
    return found


def place_for(source: Path, name: str | None) -> Path:
    """Choose the folder that an import makes.

    Args:
        source: Where it comes from.
        name: What a person calls it; it must be free. None for the source's own name, numbered where that is taken.

    Raises:
        InputError: The name is no name, or taken.
    """
    root = studio_paths().adapters
    if name is not None:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name for an adapter.", "Give letters, digits, points and dashes alone.", "name")
        if (root / name).exists():
            raise InputError(f"There is an adapter called {name} already.", "Choose another name.", "name")
        return root / name
    own = _own_name(source)
    numbered = (f"{own}-{number}" for number in range(2, 10_000))
    return next(place for place in (root / own, *(root / other for other in numbered)) if not place.exists())


def _own_name(source: Path) -> str:
    name = source.name
    ending = next((ending for ending in sorted(ARCHIVES, key=len, reverse=True) if name.lower().endswith(ending)), "")
    if not ending and source.parent.name == "snapshots":  # of the Hub's cache: its commit says nothing
        name = source.parents[1].name.rpartition("--")[2]
    cleaned = re.sub(r"[^\w.-]+", "-", name.removesuffix(name[len(name) - len(ending) :] if ending else "")).strip(".-")[:80]
    return cleaned if _NAME.fullmatch(cleaned) else "adapter"


def _looked_at(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """Look at config and weights before anything obeys them."""
    config, findings = read_foreign_config(folder)
    findings += rename_keys(folder)
    tensors = adapter_tensors(folder)
    config, replaced = replace_patterns(config, adapted_names(tensors))
    return config, [*findings, *replaced]


def _fitted(
    folder: Path, base: FoundBase, config: dict[str, Any], *, by_mlx: bool, text_only: bool
) -> tuple[dict[str, Any], list[Finding]]:
    """Bring an adapter's names and experts to what its base has."""
    assert base.folder is not None
    tree = tree_of(base.folder)
    way_out = FUSE if by_mlx else MERGE
    config, of_class = fit_class(folder, base.folder, config, tree, text_only=text_only)
    fused: FusedExperts | None = None
    if is_on_parameters(folder, config, tree):
        fused = fuse_experts(folder, base.folder, config, tree, way_out)
        config = fused.config
    before = fused.strengths if fused else strengths_of(folder, config)
    moved, names = fit_keys(folder, tree)
    if names:
        config = moved_settings(folder, config, before, names, tree, on_parameters=fused is not None)
    if fused:
        see_strengths(folder, config, renamed(before, names), tree, way_out)
    adapted = adapted_names(adapter_tensors(folder))
    if by_mlx:
        refuse_tied(adapted, tree)
    if any(module.kind == "experts" for module in tree.modules):
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
        refuse_lost(folder, base.folder, way_out)
    return config, [*of_class, *(fused.findings if fused else ()), *moved]


def _without_code(folder: Path) -> list[Finding]:
    """Take the tokenizer out where its settings ask for code: the base model's own is used then."""
    settings = folder / "tokenizer_config.json"
    try:
        if settings.is_file():
            refuse_code(read_json(settings), settings)
    except InputError:
        for name in TAKEN.keys() - {ADAPTER_CONFIG, ADAPTER_WEIGHTS, "README.md"}:
            (folder / name).unlink(missing_ok=True)
        message = "Its tokenizer_config.json asks for code of its own, or cannot be read: its tokenizer was left."
        return [Finding("warning", "tokenizer_left", message, "The base model's tokenizer is used.", "path")]
    return []


def _left(names: Sequence[str]) -> list[Finding]:
    if not names:
        return []
    shown = ", ".join("".join(letter if letter.isprintable() else "?" for letter in name[:80]) for name in names[:_MOST_LEFT])
    more = f" and {len(names) - _MOST_LEFT} more" if len(names) > _MOST_LEFT else ""
    return [Finding("note", "files_left", f"Files beside it that no adapter needs were left: {shown}{more}.", "", "path")]


def _write(folder: Path, config: dict[str, Any], base: FoundBase, named: str, findings: Sequence[Finding]) -> None:
    """Let the config name the base model by what it is called here, and keep what it said beside."""
    known = {**config, "base_model_name_or_path": base.name, "revision": base.revision}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    record = {
        "base_named": named,
        "weights_sha256": sha256_of(folder / ADAPTER_WEIGHTS),
        "findings": [finding.to_json() for finding in findings],
    }
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _recorded_findings(folder: Path) -> Iterator[Finding]:
    try:
        record: Any = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        yield from [Finding(entry["level"], entry["code"], entry["message"], entry["hint"]) for entry in record["findings"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
