"""What a merge writes: every tensor's file, dtype and shape, known before the first byte."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.core.errors import InputError
from lora_studio.export.merge.changes import AddUpdate, Change, Changes, Replace, ReplaceRows, Resize
from lora_studio.export.merge.dequantized import DequantizedTensors
from lora_studio.export.merge.shards import SAFETENSORS_NAMES, ShardLayout
from lora_studio.models.check import WEIGHTS_NAME, read_model_config
from lora_studio.models.checkpoint_names import CheckpointNames, Group
from lora_studio.models.facts import text_part
from lora_studio.models.reading import facing
from lora_studio.models.spellings import both_spellings
from lora_studio.models.stored_quantization import without_quantization
from lora_studio.models.stored_tensors import StoredTensor, StoredTensors
from lora_studio.models.unpacked import open_tensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_INSTEAD = "Export the adapter instead of merging it."
WRITTEN_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class NewTensor:
    """A tensor that the base's files do not have: a head that is no longer its embedding's.

    Attributes:
        parameter: Its name.
        copied_from: Name on disk of the tensor it is a copy of, where nothing was trained; else it is all the adapter's.
    """

    parameter: str
    copied_from: str = ""


@dataclass(frozen=True)
class BaseQuantization:
    """How a base was held in memory: `model.quantization` and `model.dtype` of a run."""

    quantization: str
    dtype: str


@dataclass
class MergePlan:
    """Everything that a merge writes, and from what.

    Attributes:
        stored: The base's tensors.
        names: Which tensor is which parameter.
        changes: What is done to each parameter.
        layout: What is written, by name on disk.
        new: What the base's files do not have, by name on disk.
        config: `config.json` of the result.
    """

    stored: StoredTensors
    names: CheckpointNames
    changes: Changes
    config: dict[str, Any]
    layout: dict[str, ShardLayout] = field(default_factory=dict[str, ShardLayout])
    new: dict[str, NewTensor] = field(default_factory=dict[str, NewTensor])

    @classmethod
    def of(cls, base: Path, changes: Changes, dtype: str | None, held: BaseQuantization | None = None) -> MergePlan:
        """Plan the merge of an adapter into a base model's folder.

        Args:
            base: Folder with config.json and safetensors.
            changes: What the adapter does to it.
            dtype: Of every weight; None keeps each tensor's own, or float32 where that is none we write.
            held: How the base was held while the adapter was trained, to merge into that, unpacked; None merges into the base on disk.

        Raises:
            InputError: The adapter cannot be merged rightly.
        """
        stored = open_tensors(base)
        names = CheckpointNames(changes.model, list(stored.by_name))
        stored = facing(stored, names, changes.model)
        if held is not None:
            stored = DequantizedTensors(stored, names, changes.tree, held.quantization, held.dtype)
        plan = cls(stored, names, changes, without_quantization(read_model_config(base)))
        plan._lay_out(dtype)
        plan._untie(dtype)
        plan._settle_vocabulary()
        plan._refuse_lost_changes()
        plan.config.pop("torch_dtype", None)
        plan.config["dtype"] = dtype or plan._main_dtype()
        plan.config = both_spellings(plan.config)
        return plan

    @property
    def adapter(self) -> SavedAdapter:
        """The adapter."""
        return self.changes.adapter

    @property
    def model(self) -> PreTrainedModel:
        """The base on the meta device."""
        return self.changes.model

    @property
    def bytes(self) -> int:
        """What the weights will weigh."""
        return sum(entry.bytes for entry in self.layout.values())

    @property
    def dtype(self) -> str:
        """The dtype of most of the weights, in torch's word."""
        return str(self.config["dtype"])

    @property
    def is_rounded(self) -> bool:
        """Whether any weight is written in less than float32."""
        return any(entry.dtype in ("F16", "BF16") for entry in self.layout.values())

    def parameter_dtypes(self) -> dict[str, torch.dtype]:
        """Return the dtype in which each parameter is written."""
        found: dict[str, torch.dtype] = {}
        for group in self.names.groups:
            on_disk = next((name for name in group.stored.values() if name in self.layout), None)
            found |= {name: self.torch_dtype(on_disk) for name in group.parameters if on_disk is not None}
        return found | {new.parameter: self.torch_dtype(name) for name, new in self.new.items()}

    def changes_of(self, group: Group) -> dict[str, list[Change]]:
        """Return the changes to a group's parameters, of those that have any."""
        return {name: self.changes.by_parameter[name] for name in group.parameters if name in self.changes.by_parameter}

    def torch_dtype(self, name: str) -> torch.dtype:
        """Return the dtype in which a tensor is written."""
        import torch

        return getattr(torch, next(word for word, short in SAFETENSORS_NAMES.items() if short == self.layout[name].dtype))

    def _lay_out(self, dtype: str | None) -> None:
        parameters = {name for group in self.names.groups for name in group.stored.values()}
        for name, stored in self.stored.by_name.items():
            shape = self._shape_of(name, stored)
            written = _written_as(stored, dtype) if name in parameters else stored.entry.dtype
            self.layout[name] = ShardLayout(stored.file.name, written, shape)

    def _shape_of(self, name: str, stored: StoredTensor) -> tuple[int, ...]:
        rows = {self._on_disk(parameter): rows for parameter, rows in self.changes.resized.items()}
        return (rows[name], *stored.entry.shape[1:]) if name in rows else stored.entry.shape

    def _refuse_lost_changes(self) -> None:
        """See that every change has a place on disk where it can be made.

        Raises:
            InputError: DoRA, rows or a bias would change a weight that lies in parts, or a changed parameter is nowhere in the files.
        """
        for parameter, changes in self.changes.by_parameter.items():
            group = self.names.by_parameter.get(parameter)
            if group is None and parameter not in self.new:
                raise _not_stored(parameter, self.stored.folder)
            if group is not None and group.converter is not None and not all(_works_in_parts(change) for change in changes):
                raise InputError(f"{parameter} lies in the base's files in parts, to which such a change cannot be made.", _INSTEAD, "kind")

    def _untie(self, dtype: str | None) -> None:
        """Plan a tensor of its own for a head that no longer equals its embedding; PEFT changes both where it changed them alike."""
        tied = _tied_pair(self.model)
        if tied is None:
            return
        embedding, head = tied
        of_embedding, of_head = _shared(*(self.changes.by_parameter.get(name, []) for name in tied))
        _refuse_tied_adapter(embedding, head, of_embedding, of_head)
        self._refuse_other_rows(embedding, head, of_embedding, of_head)
        self.changes.by_parameter |= {name: made for name, made in ((embedding, of_embedding), (head, of_head)) if made}
        if self._are_same(of_embedding, of_head):
            self.changes.by_parameter.pop(head, None)
            if head in self.layout:  # some files hold the tied weight twice
                self.layout.pop(head)
            return
        self.config["tie_word_embeddings"] = False
        source = self._on_disk(embedding)
        if head in self.layout:
            return
        old = self.stored.by_name[source]
        rows = self.changes.resized.get(head, old.entry.shape[0])
        self.layout[head] = ShardLayout(self._last_file(), _written_as(old, dtype), (rows, *old.entry.shape[1:]))
        self.new[head] = NewTensor(head, "" if of_head and isinstance(of_head[0], Replace) else source)

    def _are_same(self, of_embedding: list[Change], of_head: list[Change]) -> bool:
        """Return whether a tied head and embedding are still the same after the merge."""
        return len(of_embedding) == len(of_head) and all(map(self._is_same, of_embedding, of_head))

    def _is_same(self, one: Change, other: Change) -> bool:
        import torch

        if one == other:
            return True
        match one, other:
            case (Replace(), Replace()):
                pass
            case (ReplaceRows(), ReplaceRows()) if one.rows == other.rows:
                pass
            case _:
                return False
        with self.adapter.reading() as tensors:
            return torch.equal(tensors.get(one.key), tensors.get(other.key))

    def _refuse_other_rows(self, embedding: str, head: str, of_embedding: list[Change], of_head: list[Change]) -> None:
        """Refuse rows of a tied head that were trained apart from the embedding's."""
        apart, own = ([change for change in made if isinstance(change, ReplaceRows)] for made in (of_head, of_embedding))
        if apart and not self._are_same([*own], [*apart]):
            raise InputError(
                f"The adapter trains rows of {head.removesuffix('.weight')} apart from those of {embedding.removesuffix('.weight')}, "
                "to which it is tied.",
                _INSTEAD,
                "kind",
            )

    def _settle_vocabulary(self) -> None:
        """Note a resized vocabulary."""
        if self.changes.resized:
            text_part(self.config)["vocab_size"] = self.changes.vocabulary.rows

    def _on_disk(self, parameter: str) -> str:
        group = self.names.by_parameter.get(parameter)
        return next(iter(group.stored.values())) if group else parameter

    def _last_file(self) -> str:
        return list(self.layout.values())[-1].file if self.layout else WEIGHTS_NAME

    def _main_dtype(self) -> str:
        weights: dict[str, int] = {}
        for entry in self.layout.values():
            weights[entry.dtype] = weights.get(entry.dtype, 0) + entry.bytes
        short = max(weights, key=lambda key: weights[key])
        return next(word for word, code in SAFETENSORS_NAMES.items() if code == short)


def _not_stored(parameter: str, folder: Path) -> InputError:
    module = parameter.rpartition(".")[0]
    message = f"The adapter changes {module}, whose {parameter} is in none of the files of {folder}: there is nothing to merge into."
    return InputError(message, "Export the adapter instead of merging it, or train again without this target.", "kind")


def _written_as(stored: StoredTensor, dtype: str | None) -> str:
    if dtype is not None:
        return SAFETENSORS_NAMES[dtype]
    return stored.entry.dtype if stored.entry.dtype in {SAFETENSORS_NAMES[word] for word in WRITTEN_DTYPES} else "F32"


def _works_in_parts(change: Change) -> bool:
    """Return whether a change can be made to a weight that lies on disk in parts."""
    return isinstance(change, Replace) or (isinstance(change, AddUpdate) and not change.pair.magnitude_key)


def _tied_pair(model: Any) -> tuple[str, str] | None:
    """Name the weights of embedding and head where they are one."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is not embedding.weight:
        return None
    by_module = {id(module): name for name, module in model.named_modules()}
    return f"{by_module[id(embedding)]}.weight", f"{by_module[id(head)]}.weight"


def _shared(of_embedding: list[Change], of_head: list[Change]) -> tuple[list[Change], list[Change]]:
    """Return the changes of two tied ends, with those that act in both places at each.

    What PEFT saved of the tied weight itself (untrained) is read into both; trained rows of the embedding are the head's too.
    """
    embedding, head = _begun_alike(of_embedding, of_head), _begun_alike(of_head, of_embedding)
    rows = [change for change in embedding if isinstance(change, ReplaceRows)]
    head_is_apart = any(isinstance(change, ReplaceRows) or (isinstance(change, Replace) and change.trained) for change in head)
    return embedding, head if head_is_apart else [*head, *rows]


def _begun_alike(changes: list[Change], partners: list[Change]) -> list[Change]:
    """Begin with the tied weight as the partner's file has it, where there is nothing of one's own."""
    saved = [change for change in partners if isinstance(change, Replace) and not change.trained]
    if not saved or any(isinstance(change, Replace) for change in changes):
        return changes
    return [*saved, *(change for change in changes if not isinstance(change, Resize))]


def _refuse_tied_adapter(embedding: str, head: str, of_embedding: list[Change], of_head: list[Change]) -> None:
    """Refuse a low-rank update of a tied weight, unless its partner was trained whole: merged into one place, it would act in both."""
    for name, own, partner, others in ((embedding, of_embedding, head, of_head), (head, of_head, embedding, of_embedding)):
        trained_whole = any(isinstance(change, Replace) and change.trained for change in others)
        if any(isinstance(change, AddUpdate) for change in own) and not trained_whole:
            module, tied_to = name.removesuffix(".weight"), partner.removesuffix(".weight")
            raise InputError(
                f"{module} is tied to {tied_to}: an adapter here would merge wrongly; modules_to_save trains it whole.", _INSTEAD, "kind"
            )
