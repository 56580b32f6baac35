"""`modules_to_save`: modules trained in full beside the adapter.

PEFT takes every module whose name ends in an entry, dot or no dot (`norm` takes `input_layernorm`), but keeps adapters away only
from modules named exactly so and those below them. What cannot go well is refused here.
Source: `_set_trainable` in `peft.utils.other`, `check_target_module_exists` in `peft.tuners.tuners_utils`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleInfo, ModuleTree

_FIELD = "adapter.modules_to_save"
_INSIDE_AN_ADAPTER = (
    "base_layer",
    "lora_dropout",
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "default",
)
_CONTAINERS = frozenset({"ModuleList", "ModuleDict", "ParameterList", "ParameterDict"})


def excluded_by_saving(entries: tuple[str, ...], names: AbstractSet[str]) -> set[str]:
    """Return those of `names` that get no adapter because `modules_to_save` names them or a module above.

    Raises:
        InputError: An entry is no regular expression, which is how PEFT reads it here.
    """
    excluded = set[str]()
    for entry in entries:
        try:
            expression = re.compile(rf"(^|.*\.){entry}($|\..*)")
        except re.error as error:
            raise InputError(f"modules_to_save: {entry!r} cannot be read: {error}.", "Give the plain name of a module.", _FIELD) from error
        excluded |= {name for name in names if expression.match(name)}
    return excluded


def saved_modules(entries: tuple[str, ...], tree: ModuleTree, targets: AbstractSet[str], findings: list[Finding]) -> tuple[str, ...]:
    """Return the names of the modules PEFT would train in full, in the order of the tree; what is wrong goes to `findings`."""
    if not entries:
        return ()
    modules = [module for module in tree.modules if module.name and module.kind != "experts"]
    taken = [module for module in modules if module.name.endswith(entries)]
    names = {module.name for module in taken}
    for entry in entries:
        findings.extend(_entry_findings(entry, names, targets))
    for module in taken:
        findings.extend(_module_findings(module, names))
    return tuple(module.name for module in taken)


def _error(code: str, message: str, hint: str, entry: str = "") -> Finding:
    return Finding("error", code, f"modules_to_save: {message}", hint, _FIELD, entry)


def _entry_findings(entry: str, names: AbstractSet[str], targets: AbstractSet[str]) -> Iterator[Finding]:
    mine = sorted(name for name in names if name.endswith(entry))
    adapted = next((name for name in mine if name in targets), None)
    unexpected = next((name for name in mine if name != entry and not name.endswith(f".{entry}")), None)
    takes = f"PEFT goes by endings, so {entry!r} also takes"
    if not mine:
        yield _error("saved_unmatched", f"nothing in the model is named {entry!r}.", "Give the name of a module, such as lm_head.", entry)
    elif adapted or any(f".{inside}".endswith(entry) or entry.endswith(f".{inside}") for inside in _INSIDE_AN_ADAPTER):
        what = f"{adapted}, which gets an adapter" if adapted else "the inside of every adapter"
        yield _error("saved_adapted", f"{takes} {what}.", "Give the module's complete name.")
    elif unexpected:
        hint = "Give the module's complete name to save that one alone."
        yield Finding("warning", "saved_by_ending", f"modules_to_save: {takes} {unexpected}.", hint, _FIELD)


def _module_findings(module: ModuleInfo, names: AbstractSet[str]) -> Iterator[Finding]:
    if module.class_name in _CONTAINERS:
        message = f"{module.name} is a {module.class_name}, which PEFT cannot save whole."
        yield _error("saved_container", message, "Name the modules in it.")
    above = _taken_above(module.name, names)
    if above:
        yield _error("saved_twice", f"{above} is taken and also {module.name} in it.", "Name only one of them.")


def _taken_above(name: str, names: AbstractSet[str]) -> str | None:
    above = name.rpartition(".")[0]
    while above:
        if above in names:
            return above
        above = above.rpartition(".")[0]
    return None
