"""Whether the adapter that a run is to begin from fits the run's own: by its config and its file's header, before anything loads.

Light. `plan` tells what is found here and `train` refuses it, so that neither knows better than the other; `train.warm_start` then does
what was found to fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lora_studio.adapters.saved_adapter import SavedAdapter, SavedPair, is_trained, read_adapter_config
from lora_studio.adapters.vocabulary import Vocabulary
from lora_studio.core.adapter_file import whole_shapes
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import Resolution, Target
from lora_studio.inference.adapters import adapter_unread, find_adapter

FIELD = "adapter.warm_start"
_NAMED = 3
_ANOTHER = "Choose an adapter of this base model, or leave warm_start empty."
_MERGE = "Export it merged (`lora-studio export --as merged`) and train on the merged model."
_OTHER_TASKS = {
    "SEQ_CLS": "sorts texts into classes",
    "TOKEN_CLS": "sorts tokens into classes",
    "QUESTION_ANS": "marks answers in texts",
}
_VARIANTS = ("alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config")


class NewAdapter(NamedTuple):
    """The adapter that a run makes.

    Attributes:
        settings: What it is to be.
        tree: The base's modules.
        resolution: What the settings come to there; without errors.
        base: The base's folder, whose tokenizer is compared; None where there is none.
    """

    settings: AdapterSettings
    tree: ModuleTree
    resolution: Resolution
    base: Path | None = None


def warm_start_findings(new: NewAdapter, *, hashed: bool = True) -> list[Finding]:
    """Say why a run cannot begin from the adapter that `warm_start` names, and what else there is to know of it.

    Args:
        new: What is to begin from it. Where its settings have errors of their own, nothing is said.
        hashed: Whether its weights are read to see that they are as they were written.
    """
    source = new.settings.warm_start
    if not source or new.resolution.errors:
        return []
    try:
        adapter = open_warm(source, new.tree, hashed=hashed)
        vocabulary = Vocabulary.of(adapter, new.tree, new.base)
    except InputError as error:
        return [Finding("error", "warm_start_unreadable", error.message, error.hint, FIELD)]
    except OSError as error:
        message = f"The adapter to begin from, {source}, cannot be read: {error.strerror or error}."
        return [Finding("error", "warm_start_unreadable", message, "Check the folder's permissions.", FIELD)]
    first = next(_misfits(adapter, vocabulary, new), None)
    if first is not None:
        return [first]
    return [_tokens_warning(source)] if vocabulary.tokens else []


def open_warm(source: str, tree: ModuleTree, *, hashed: bool = True) -> SavedAdapter:
    """Open the adapter that a run, a checkpoint or an adapter folder means.

    Raises:
        InputError: There is none, or one that is broken or is no LoRA that can be gone on with.
    """
    folder = find_adapter(source).adapter if hashed else adapter_unread(Path(source).expanduser())
    if folder is None and (Path(source).expanduser() / "run.yaml").is_file():
        raise InputError(f"The run {source} has no adapter yet.", "Let it take a step and save, or resume it.", FIELD)
    if folder is None:
        message = f"{source} is no run and holds no PEFT adapter to begin from."
        raise InputError(message, "Give a run, a checkpoint or an adapter folder.", FIELD)
    _refuse_kind(folder, read_adapter_config(folder))
    return SavedAdapter.open(folder, tree)


def whole_of(adapter: SavedAdapter, tree: ModuleTree) -> dict[str, str]:
    """Return the keys of weights that were trained themselves, by parameter: without what PEFT saved from beneath an adapter as it was."""
    return {name: key for name, key in adapter.whole.items() if is_trained(key) or not _is_as_long(adapter, name, tree)}


def _is_as_long(adapter: SavedAdapter, parameter: str, tree: ModuleTree) -> bool:
    module = tree.by_name.get(parameter.rpartition(".")[0])
    return module is not None and module.shape == adapter.header.tensors[adapter.whole[parameter]].shape


def _refuse_kind(folder: Path, config: dict[str, Any]) -> None:
    task, variants = str(config.get("task_type") or ""), [key for key in _VARIANTS if config.get(key)]
    if task in _OTHER_TASKS:
        message = f"The adapter to begin from, {folder}, is of the task {task}: it {_OTHER_TASKS[task]} with a head of its own."
        raise InputError(message, "Choose an adapter for writing text (task_type CAUSAL_LM), or leave warm_start empty.", FIELD)
    if variants:
        message = f"The adapter to begin from, {folder}, is a variant of LoRA ({', '.join(variants)}), which the new one is not."
        raise InputError(message, "Choose a plain LoRA adapter, or leave warm_start empty.", FIELD)
    if config.get("layer_replication"):
        message = f"The adapter to begin from, {folder}, is of a base model made out of copies of layers (layer_replication)."
        raise InputError(message, _ANOTHER, FIELD)


def _misfits(adapter: SavedAdapter, vocabulary: Vocabulary, new: NewAdapter) -> Iterator[Finding]:
    """Say what of an adapter the new one has no place for, the most telling first."""
    called = f"The adapter to begin from, {new.settings.warm_start},"
    if adapter.changed_base:
        message = f"{called} began with init_lora_weights {adapter.changed_base!r}, which changes the base model before the first step."
        hint = "Save it as a plain LoRA where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        yield _error("base_changed", message, hint)
    if vocabulary.resized:
        message = f"{called} has new tokens: a vocabulary of {vocabulary.rows:,} in place of the base's {vocabulary.base_rows:,}."
        yield _error("new_tokens", message, _MERGE)
    if adapter.token_rows:
        yield _error("token_rows", f"{called} trained single rows of {_listed(adapter.token_rows)} (trainable_token_indices).", _MERGE)
    yield from _other_modules(called, adapter, new)
    yield from _kind_misfits(called, adapter, new)
    for name, pair in adapter.pairs.items():
        yield from _pair_misfits(called, adapter, pair, new.tree.by_name[name], new.resolution.by_name[name])


def _other_modules(called: str, adapter: SavedAdapter, new: NewAdapter) -> Iterator[Finding]:
    lost = [name for name in adapter.pairs if name not in new.resolution.by_name]
    foreign = [name for name in lost if name not in new.tree.by_name]
    if foreign:
        trained_on = adapter.config.get("base_model_name_or_path")
        told = f" It was trained on {trained_on}." if trained_on else ""
        hint = f"{_ANOTHER} An adapter whose names are another program's is renamed by `lora-studio import`."
        yield _error(
            "other_base", f"{called} has {_listed(foreign)}, which are no targets here: this base has no such modules.{told}", hint
        )
    if lost:
        yield _error("not_targeted", f"{called} has {_listed(lost)}, which are no targets here.", "Tick them, or choose another adapter.")
    shapes = whole_shapes(new.settings, new.tree, new.resolution)
    for parameter, key in whole_of(adapter, new.tree).items():
        given = adapter.header.tensors[key].shape
        if not _has_place(parameter, given, shapes, new.resolution.saved_modules):
            yield _whole_misfit(called, parameter, given, shapes.get(parameter))


def _has_place(parameter: str, given: tuple[int, ...], shapes: dict[str, tuple[int, ...]], saved: tuple[str, ...]) -> bool:
    """Return whether a weight saved whole is trained here too; of parameters that no module calls weight or bias, the name alone says."""
    return shapes[parameter] == given if parameter in shapes else any(parameter.startswith(f"{name}.") for name in saved)


def _whole_misfit(called: str, parameter: str, given: tuple[int, ...], own: tuple[int, ...] | None) -> Finding:
    module, _, part = parameter.rpartition(".")
    if own is not None:
        return _error("other_sizes", f"{called} is of another size: its {parameter} is {_told(given)}, here {_told(own)}.", _ANOTHER)
    if part == "bias":
        message = f"{called} trained biases of the base, such as {parameter}, which this run does not."
        return Finding("error", "warm_start_bias", message, "Set bias as the adapter has it.", "adapter.bias")
    message = f"{called} has {module} trained in full (modules_to_save), which this run does not train so."
    return Finding("error", "warm_start_saved", message, f"Name {module} in modules_to_save, or choose another adapter.", FIELD)


def _kind_misfits(called: str, adapter: SavedAdapter, new: NewAdapter) -> Iterator[Finding]:
    given = bool(adapter.config.get("use_dora"))
    if given != new.settings.use_dora:
        message = f"{called} has use_dora {str(given).lower()}, this run's has it {str(not given).lower()}."
        yield Finding("error", "warm_start_dora", message, f"Set use_dora to {str(given).lower()}.", "adapter.use_dora")
    biased = [name for name, pair in adapter.pairs.items() if pair.bias_key]
    if biased:
        message = f"{called} has biases of its own on B (lora_bias), such as on {biased[0]}, which adapters here do not have."
        yield _error("lora_bias", message, _MERGE)


def _pair_misfits(called: str, adapter: SavedAdapter, pair: SavedPair, module: ModuleInfo, target: Target) -> Iterator[Finding]:
    a, b = (adapter.header.tensors[key].shape for key in (pair.a_key, pair.b_key))
    if (a[1], b[0]) != (module.in_features, module.out_features) or (pair.experts > 1 and pair.experts != module.num_experts):
        of = f" of {pair.experts} experts" if pair.experts > 1 else ""
        has = f"{module.in_features} to {module.out_features}" + (f" of {module.num_experts} experts" if pair.experts > 1 else "")
        message = f"{called} is of another base model: on {pair.name} it goes from {a[1]} to {b[0]}{of}, the base's module from {has}."
        yield _error("other_sizes", message, _ANOTHER)
    if pair.r > target.r:
        message = f"{called} has rank {pair.r} on {pair.name}, this run's {target.r}: part of it would be lost."
        yield Finding("error", "warm_start_rank", message, f"Set r to {pair.r} or more.", "adapter.r")


def _tokens_warning(source: str) -> Finding:
    message = f"The adapter to begin from, {source}, has a tokenizer with more tokens than the base's, which is what this run reads with."
    return Finding("warning", "warm_start_tokens", message, _MERGE, FIELD)


def _error(code: str, message: str, hint: str) -> Finding:
    return Finding("error", f"warm_start_{code}", message, hint, FIELD)


def _told(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _listed(names: Any) -> str:
    first = sorted(names)[:_NAMED]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")
