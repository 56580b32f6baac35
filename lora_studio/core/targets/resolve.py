"""From settings to modules: exactly what PEFT 0.21 would wrap, with the rank and alpha of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding, Level
from lora_studio.core.modules import ModuleInfo, ModuleKind, ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets.fused import rewrite_for_fused_experts, rewritten_name, rewritten_names
from lora_studio.core.targets.index import index_of
from lora_studio.core.targets.matching import (
    endings_of,
    has_names_within_names,
    matching_names,
    names_matching,
    owner_of_plain_parameter,
    parameters_matching,
    within_layers,
)
from lora_studio.core.targets.patterns import PatternTable, changed_by_sorting, unused_patterns
from lora_studio.core.targets.reach import reach_findings
from lora_studio.core.targets.saved import excluded_by_saving, saved_modules

_MODULES = "adapter.target_modules"


_LAYERS_WITH_ALL_LINEAR = Finding(
    "error",
    "layers_with_all_linear",
    "layers_to_transform cannot stand beside target_modules: all-linear.",
    "Name the modules in a list, or leave layers_to_transform empty.",
    "adapter.layers_to_transform",
)


class Target(NamedTuple):
    """One module, or one parameter, that gets an adapter."""

    name: str
    kind: ModuleKind
    r: int
    lora_alpha: float


@dataclass(frozen=True)
class Resolution:
    """What settings come to on one model.

    Attributes:
        adapter: The settings PEFT goes on with: those given, rewritten where PEFT rewrites them (fused experts), `all-linear`
            without what no adapter can go on.
        targets: What gets an adapter, in the order of the tree.
        saved_modules: Names of the modules trained in full and saved with the adapter.
        findings: What is wrong or worth knowing; `check` raises the first error.
    """

    adapter: AdapterSettings
    targets: tuple[Target, ...]
    saved_modules: tuple[str, ...]
    findings: tuple[Finding, ...]

    @cached_property
    def by_name(self) -> dict[str, Target]:
        """Targets by their name."""
        return {target.name: target for target in self.targets}

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that keep a run from starting."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def check(self) -> Resolution:
        """Return itself when nothing is wrong.

        Raises:
            InputError: The first error found.
        """
        for finding in self.errors:
            raise finding.as_error()
        return self


def resolve(adapter: AdapterSettings, tree: ModuleTree) -> Resolution:
    """Find out which modules and parameters the settings mean on this model; never raises for what a person typed."""
    findings: list[Finding] = []
    if adapter.target_modules == "all-linear" and adapter.layers_to_transform:
        findings.append(_LAYERS_WITH_ALL_LINEAR)
    try:
        effective = rewrite_for_fused_experts(_without_refused(adapter, tree, findings), tree)
        ranks = PatternTable(effective.rank_pattern, "adapter.rank_pattern")
        alphas = PatternTable(effective.alpha_pattern, "adapter.alpha_pattern")
        names = _module_names(effective, tree, findings)
    except InputError as error:
        return Resolution(adapter, (), (), (Finding("error", "setting_refused", error.message, error.hint, error.field),))
    names |= _parameter_names(effective, adapter.target_parameters, tree, findings)
    chosen = [module for module in tree.modules if module.name in names] if names else []
    rank_of, alpha_of = ranks.lookup(effective.r), alphas.lookup(effective.lora_alpha)
    wrapped = _wrappable(chosen, findings)
    targets = tuple(Target(module.name, module.kind, rank_of(module.name), alpha_of(module.name)) for module in wrapped)
    saved = saved_modules(effective.modules_to_save, tree, names, findings)
    if not chosen and not any(finding.level == "error" for finding in findings):
        findings.append(_nothing_targeted())
    findings.extend(_taken_for_experts(adapter, tree))
    findings.extend(_experts_findings(effective, targets))
    findings.extend(reach_findings(adapter, tree, [target.name for target in targets], saved))
    findings.extend(_pattern_findings(effective, targets))
    return Resolution(effective, targets, saved, tuple(findings))


def _nothing_targeted() -> Finding:
    return Finding(
        "error", "no_target", "No module is targeted: there is nothing to train.", "Tick modules in the tree, or take a preset.", _MODULES
    )


def _unmatched(level: Level, setting: str, entry: str, hint: str) -> Finding:
    code = "exclude_unmatched" if setting == "exclude_modules" else "target_unmatched"
    return Finding(level, code, f"{setting}: nothing in the model is named {entry!r}.", hint, f"adapter.{setting}", entry)


def _without_refused(adapter: AdapterSettings, tree: ModuleTree, findings: list[Finding]) -> AdapterSettings:
    """Leave out of `all-linear` what PEFT would take for it and no adapter can go on."""
    if adapter.target_modules != "all-linear":
        return adapter
    here = set(index_of(tree).refused_linear)
    for entry in adapter.exclude_modules:
        here -= names_matching(entry, tree)
    refused = [name for name in index_of(tree).refused_linear if name in here]
    if not refused:
        return adapter
    first = tree.by_name[refused[0]]
    others = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    findings.append(Finding("note", "all_linear_without", f"all-linear leaves {first.name}{others} out: {first.reason}.", "", _MODULES))
    entries = [*adapter.exclude_modules, *endings_of(refused, index_of(tree).linear, tree)]
    return AdapterSettings.model_validate({**adapter.model_dump(), "exclude_modules": tuple(dict.fromkeys(entries))})


def _module_names(adapter: AdapterSettings, tree: ModuleTree, findings: list[Finding]) -> set[str]:
    names = _every_linear(tree) if adapter.target_modules == "all-linear" else _listed(adapter, tree, findings)
    left = set(names)
    for entry in adapter.exclude_modules:
        found = names_matching(entry, tree)
        left -= found
        if not found:
            findings.append(_unmatched("warning", "exclude_modules", entry, "Take the entry out."))
    left -= excluded_by_saving(adapter.modules_to_save, left)
    if names and not left:
        findings.append(
            Finding(
                "error",
                "targets_excluded",
                "Every targeted module is left out again by exclude_modules or modules_to_save.",
                "Take some of them out of exclude_modules.",
                "adapter.exclude_modules",
            )
        )
    return left


def _every_linear(tree: ModuleTree) -> set[str]:
    index = index_of(tree)
    # PEFT turns all-linear into a list of names, which may happen to be endings of longer ones.
    if has_names_within_names(tree):
        return matching_names((*index.linear, *index.refused_linear), tree)
    return {*index.linear, *index.refused_linear}


def _listed(adapter: AdapterSettings, tree: ModuleTree, findings: list[Finding]) -> set[str]:
    names = set[str]()
    for entry in adapter.target_modules:
        found = names_matching(entry, tree)
        names |= found
        if not found:
            findings.append(_unmatched("error", "target_modules", entry, _names_hint(tree)))
    if not adapter.layers_to_transform or not names:
        return names
    left = within_layers(names, frozenset(adapter.target_modules), adapter.layers_to_transform, tree)
    if not left:
        layers = ", ".join(map(str, adapter.layers_to_transform))
        findings.append(
            Finding(
                "error",
                "layers_unmatched",
                f"layers_to_transform: no targeted module is in layer {layers}.",
                "Layers count from 0.",
                "adapter.layers_to_transform",
            )
        )
    return left


def _names_hint(tree: ModuleTree) -> str:
    leaves = dict.fromkeys(module.leaf_name for module in tree.targetable if module.kind != "experts")
    return f"This model has {', '.join(list(leaves)[:12])}." if leaves else "This model has no module an adapter can go on."


def _parameter_names(adapter: AdapterSettings, given: tuple[str, ...], tree: ModuleTree, findings: list[Finding]) -> set[str]:
    """Return the parameters that are targeted; of the entries, only those given must be in the model, not what PEFT makes of others."""
    rewritten = adapter.target_parameters != given and bool(adapter.target_modules)
    names = set[str]()
    for entry in adapter.target_parameters:
        found = {module.name for module in parameters_matching(entry, tree)}
        names |= found
        owner = owner_of_plain_parameter(entry, tree)
        if owner is not None:
            findings.append(
                Finding(
                    "error",
                    "parameter_of_module",
                    f"target_parameters: {entry!r} takes a plain parameter of {owner}.",
                    "Give the module's name in target_modules, or a longer name of the parameter meant.",
                    "adapter.target_parameters",
                )
            )
        elif not found and (entry in given or not rewritten):
            findings.append(_unmatched("error", "target_parameters", entry, _parameters_hint(tree)))
    return names


def _parameters_hint(tree: ModuleTree) -> str:
    leaves = dict.fromkeys(module.leaf_name for module in tree.modules if module.kind == "experts")
    return f"This model has {', '.join(leaves)}." if leaves else "This model has no fused experts: leave target_parameters empty."


def _wrappable(chosen: list[ModuleInfo], findings: list[Finding]) -> list[ModuleInfo]:
    refused: dict[str, list[str]] = {}
    for module in chosen:
        if not module.targetable:
            refused.setdefault(module.reason or f"a {module.class_name} has no adapter", []).append(module.name)
    for reason, names in refused.items():
        shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        findings.append(
            Finding(
                "error",
                "not_targetable",
                f"{shown} cannot be targeted: {reason}.",
                "Take it out of target_modules, or leave it out with exclude_modules.",
                _MODULES,
            )
        )
    return [module for module in chosen if module.targetable] if refused else chosen


def _taken_for_experts(adapter: AdapterSettings, tree: ModuleTree) -> Iterator[Finding]:
    """Tell of modules that are named with their parents and of which PEFT reads only the end of the name, as that of the experts."""
    names = rewritten_names(tree.model_type)
    for entry in () if adapter.target_modules == "all-linear" else adapter.target_modules:
        old = rewritten_name(entry, names)
        named = sorted(name for name in names_matching(entry, tree) if tree.by_name[name].kind != "experts") if old else []
        if old is None or not named or entry == old:
            continue
        others = f" and {len(named) - 1:,} more" if len(named) > 1 else ""
        yield Finding(
            "warning",
            "taken_for_experts",
            f"target_modules: no adapter goes on {named[0]}{others}: PEFT reads {entry!r} as {names[old]} of the experts in all layers, "
            "which gets one instead.",
            f"Take it out; where the experts are meant, name {names[old]} in target_parameters.",
            _MODULES,
            entry,
        )


def _experts_findings(adapter: AdapterSettings, targets: tuple[Target, ...]) -> Iterator[Finding]:
    if not any(target.kind == "experts" for target in targets):
        return
    for wrong, setting, off in ((adapter.lora_dropout > 0, "lora_dropout", "0"), (adapter.use_dora, "use_dora", "false")):
        if wrong:
            yield Finding(
                "error",
                f"{setting}_on_experts",
                f"{setting} cannot be used on fused experts.",
                f"Set {setting} to {off}, or leave the experts out.",
                f"adapter.{setting}",
            )


def _pattern_findings(adapter: AdapterSettings, targets: tuple[Target, ...]) -> Iterator[Finding]:
    names = [target.name for target in targets]
    for setting in ("rank_pattern", "alpha_pattern"):
        field, patterns = f"adapter.{setting}", adapter.rank_pattern if setting == "rank_pattern" else adapter.alpha_pattern
        if not patterns or not names:
            continue
        for key in unused_patterns(patterns, names, field):
            yield Finding("warning", "pattern_unused", f"{setting}: {key!r} matches no targeted module.", "Take it out.", field, key)
        moved = changed_by_sorting(patterns, names, field)
        if moved:
            yield Finding(
                "warning",
                "pattern_overlap",
                f"{setting}: several keys match {moved}, and PEFT saves keys sorted, so the saved adapter would mean another value.",
                "The run takes keys that do not overlap, with the values in the order written.",
                field,
            )
