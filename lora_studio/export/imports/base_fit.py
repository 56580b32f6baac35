"""Whether an adapter is of this base model: by the shape of every A and B, and by name.

Names in PEFT's files: `base_model.model.<module>.lora_A.weight`, r × in, and `.lora_B.weight`, out × r (of fused experts, r × experts
in one); `.lora_embedding_A` and `.lora_embedding_B` without `.weight`; whole weights under their own name. Source: PEFT 0.21,
`get_peft_model_state_dict`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora_studio.adapters.saved_adapter import PREFIX, SavedAdapter, parted
from lora_studio.adapters.vocabulary import Vocabulary, vocabulary_ends
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.export.redact import last_part
from lora_studio.inference.adapters import ADAPTER_WEIGHTS
from lora_studio.models.safetensors_header import SafetensorsHeader, read_header
from lora_studio.models.tree_cache import cached_tree

_WHOLE = re.compile(r"(?P<module>.+?)\.(?P<part>weight|bias)")
_WRAPS = re.compile(r"\.(?:base_layer|modules_to_save|original_module|token_adapter)(?=\.|$)")
_SEPARATE_EXPERT = re.compile(r"\.experts\.\d+\.")
_EXPERT_PARAMETERS = ("gate_up_proj", "down_proj", "gate_proj", "up_proj", "weight")
_LONGEST = 500
_FLOATS = ("F32", "F16", "BF16", "F64")
FIELD = "base"
TensorShape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """One tensor of an adapter: the module it is for, which part of it, its shape."""

    module: str
    part: str
    shape: TensorShape


def adapter_tensors(adapter: Path) -> list[Tensor]:
    """Read which tensors an adapter has, and see that every A goes with its B.

    Raises:
        InputError: The file is damaged, or is not as PEFT writes one.
    """
    path = adapter / ADAPTER_WEIGHTS
    found: list[Tensor] = []
    for name, entry in _header(path).tensors.items():
        named = _named(name) if name.startswith(PREFIX) and len(name) <= _LONGEST else None
        if named is None or not name.isprintable():
            raise _not_pefts(path, f"it has a tensor named {name[:80]!r}")
        if entry.dtype not in _FLOATS:
            raise _not_pefts(path, f"{name} is stored as {entry.dtype}")
        found.append(Tensor(*named, entry.shape))
    _check_pairs(path, found)
    return found


def _named(name: str) -> tuple[str, str] | None:
    """Return the module that a tensor is for, and which part of it; None where it is no tensor as PEFT writes them."""
    whole = _WHOLE.fullmatch(name.removeprefix(PREFIX))
    return parted(name) or ((whole["module"], whole["part"]) if whole else None)


def _header(path: Path) -> SafetensorsHeader:
    try:
        return read_header(path)
    except InputError as error:
        raise InputError(error.message.replace(str(path), path.name), "Download or copy the adapter again.", "path") from error


def adapted_names(tensors: list[Tensor]) -> list[str]:
    """Name the modules that have an A and a B, without what PEFT wraps them in."""
    return sorted({_bare(tensor.module) for tensor in tensors if tensor.part.startswith("lora_")})


def check_base(adapter: Path, base: Path, called: str = "", named: str = "") -> list[Finding]:
    """See that an adapter fits a base model's modules, and say where only its name is another.

    Args:
        adapter: The adapter's folder.
        base: The base model's folder; one with only config.json will do.
        called: What the base model given is called.
        named: What the adapter says it was trained on; empty where it does not say.

    Returns:
        A warning where the name is another: the shapes fit, so a person may know better.

    Raises:
        InputError: A module is missing in the base model, or has another size.
    """
    tensors, tree = adapter_tensors(adapter), tree_of(base)
    vocabulary, contradiction = _vocabulary_of(adapter, tree, base)
    misfits = list(_misfits(tensors, tree, vocabulary))
    if misfits:
        more = f", and {len(misfits) - 1:,} more" if len(misfits) > 1 else ""
        meant = f" It was trained on {named}." if named else ""
        hint = "Give the base model it was trained on."
        raise InputError(f"The adapter does not fit {called or base}: {misfits[0]}{more}.{meant}", hint, FIELD)
    if contradiction is not None:
        raise contradiction
    told = vocabulary.findings(FIELD)
    if not named or not called or _is_same(named, called):
        return told
    message = f"It says it was trained on {named}, not on {called}. All shapes fit, but on other weights its update means something else."
    return [*told, Finding("warning", "other_base", message, f"Go on if {called} holds the same weights.", FIELD)]


def _vocabulary_of(adapter: Path, tree: ModuleTree, base: Path) -> tuple[Vocabulary, InputError | None]:
    """Return the vocabulary that an adapter comes with, or what contradicts itself in it; the base's for kinds that are not read here."""
    try:
        saved = SavedAdapter.open(adapter, tree)
    except InputError:
        return Vocabulary(), None
    try:
        return Vocabulary.of(saved, tree, base), None
    except InputError as error:
        return Vocabulary(), InputError(error.message.replace(f" {adapter} ", " "), error.hint, FIELD)


def _is_same(named: str, called: str) -> bool:
    """Compare names; of a path the last part, since folders differ from machine to machine."""
    return named == called or last_part(named).lower() == last_part(called).lower()


def tree_of(base: Path) -> ModuleTree:
    """Return a base model's modules."""
    known = cached_tree(base)
    if known is not None:
        return known
    from lora_studio.models.inspect import inspect_model

    return inspect_model(base)


def _check_pairs(path: Path, tensors: list[Tensor]) -> None:
    shapes = {(tensor.module, tensor.part): tensor.shape for tensor in tensors}
    pairs = {"lora_A.weight": "lora_B.weight", "lora_embedding_A": "lora_embedding_B"}
    if not any(tensor.part in pairs for tensor in tensors):
        raise _not_pefts(path, "it has no A and B")
    for (module, part), shape in shapes.items():
        if part in pairs:
            other = shapes.get((module, pairs[part]))
            if other is None:
                raise _not_pefts(path, f"{module} has an A without its B")
            if len(shape) != 2 or len(other) != 2 or shape[0] != other[1] or 0 in (*shape, *other):
                raise _not_pefts(path, f"A and B of {module} are {_told(shape)} and {_told(other)}")
        elif part in pairs.values() and (module, next(a for a, b in pairs.items() if b == part)) not in shapes:
            raise _not_pefts(path, f"{module} has a B without its A")


def _misfits(tensors: list[Tensor], tree: ModuleTree, vocabulary: Vocabulary) -> Iterator[str]:
    resized = _resized(tensors, tree, vocabulary)
    for tensor in tensors:
        name = _bare(tensor.module)
        if _SEPARATE_EXPERT.search(f"{name}."):
            continue  # as older transformers stored experts: PEFT fuses them as it loads
        sites = _sites(name, tree.by_name)
        if not sites:
            yield f"it has no module {name}"
        elif not any(_fits(tensor, site) or (name in resized and _fits(tensor, resized[name])) for site in sites):
            yield f"{name} is {_told(sites[0].shape)} there, and the adapter's {tensor.part.partition('.')[0]} is {_told(tensor.shape)}"


def _resized(tensors: list[Tensor], tree: ModuleTree, vocabulary: Vocabulary) -> dict[str, ModuleInfo]:
    """Return embedding and head as an adapter has them that was trained with more or fewer tokens."""
    ends = [end for end in vocabulary_ends(tree) if end is not None] if vocabulary.resized else []
    found = {end.name: _with_rows(end, vocabulary.rows) for end in ends}
    for tensor in tensors:
        name = _bare(tensor.module)
        site = tree.by_name.get(name)
        is_vocabulary = site is not None and (site.kind == "embedding" or name == tree.output_module)
        if site is not None and is_vocabulary and tensor.part == "weight" and tensor.shape[1:] == site.shape[1:]:
            found[name] = _with_rows(site, tensor.shape[0])
    return found


def _with_rows(end: ModuleInfo, rows: int) -> ModuleInfo:
    into = {"in_features": rows} if end.kind == "embedding" else {"out_features": rows}
    return replace(end, shape=(rows, *end.shape[1:]), **into)


def _sites(name: str, by_name: Mapping[str, ModuleInfo]) -> list[ModuleInfo]:
    """Return what an adapter of this name can be on: the module, or the fused parameters of it."""
    module = by_name.get(name)
    below = (by_name.get(f"{name}.{parameter}") for parameter in _EXPERT_PARAMETERS)
    experts = [site for site in below if site is not None and site.kind == "experts"]
    return experts or ([module] if module is not None else [])


def _fits(tensor: Tensor, site: ModuleInfo) -> bool:
    """Return whether one tensor has the sizes that a module asks for."""
    shape, experts = tensor.shape, max(1, site.num_experts)
    match tensor.part:
        case "lora_A.weight" | "lora_embedding_A":
            return site.in_features == shape[1] and shape[0] % experts == 0
        case "lora_B.weight" | "lora_embedding_B":
            return site.out_features == shape[0] and shape[1] % experts == 0
        case "weight":
            return not site.shape or shape == site.shape
        case "token_adapter.trainable_tokens_delta":
            return len(shape) == 2 and shape[1:] == site.shape[1:]
        case "bias":
            return len(shape) == 1
        case _:  # a magnitude or a bias of B: one number for each output
            return site.out_features in shape


def _bare(module: str) -> str:
    """Return a module's name in the base model, without what PEFT wraps modules in."""
    return _WRAPS.sub("", module)


def _told(shape: TensorShape) -> str:
    return " × ".join(str(size) for size in shape) or "one number"


def _not_pefts(path: Path, what: str) -> InputError:
    hint = "Save the adapter with PEFT: model.save_pretrained(folder)."
    return InputError(f"{path.name} is not as PEFT writes one: {what}.", hint, "path")
