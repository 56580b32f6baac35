"""What one export works with, settled before anything is written."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.events import Notice, RunEvent
from lora_studio.export.merge.changes import Changes
from lora_studio.export.merge.dequantized import DequantizedTensors, hold
from lora_studio.export.merge.merge_plan import MergePlan
from lora_studio.export.merge.original import FullPrecision
from lora_studio.export.source import AdapterSource
from lora_studio.export.verify.reference import Reference, ReferenceParts, most_tokens, reference_of, trained_logits
from lora_studio.export.verify.rows import comparison_rows
from lora_studio.export.verify.tokenizer_files import TokenizerFiles
from lora_studio.models.facts import read_facts
from lora_studio.models.quantization import NONE, quantization_finding
from lora_studio.models.stored_quantization import stored_finding

if TYPE_CHECKING:
    import torch

    from lora_studio.core.control import TaskContext


@dataclass(frozen=True)
class ExportContext:
    """What one export works with.

    Attributes:
        source: The adapter.
        base: The base model's folder.
        changes: What the adapter does to the base.
        plan: The merge; None where nothing is merged.
        tokenizer_files: What the artefact's tokenizer must be.
        run: Whether the artefact is to be run, or its tensors alone looked at.
        trained_base: Folder of the base that the adapter was trained on; another than `base` where that was quantized from this.
        merged_into: What is merged into, by its name.
        weights_apart: How far the two are apart; see `VerificationResult`.
        full_precision: What the base was quantized from, where that is here and the base itself is gone by.
    """

    source: AdapterSource
    base: Path
    changes: Changes
    plan: MergePlan | None
    tokenizer_files: TokenizerFiles
    run: bool
    trained_base: Path
    merged_into: str
    weights_apart: float | None = None
    full_precision: FullPrecision | None = None

    @property
    def told_of_base(self) -> dict[str, Any]:
        """What a certificate tells of the base, where it was quantized while the adapter was trained: fields of `VerificationResult`."""
        source, plan = self.source, self.plan
        if not source.held_in:
            return {}
        unpacked = isinstance(plan.stored, DequantizedTensors) if plan else False
        if source.stored is not None:
            unpacked = self.trained_base == self.base
        how = f"unpacked to {plan.dtype if plan else 'float32'}" if unpacked else "in full precision"
        told = {"held_in": source.held_in, "compared_with": f"{self.merged_into}, {how}", "weights_apart": self.weights_apart}
        if plan is not None:
            told["merged_into"] = told["compared_with"]
        return {**told, "full_precision": self.full_precision}

    def base_alone(self) -> MergePlan:
        """Plan to write the base by itself, unpacked to float32: for programs that do not read how it is quantized."""
        nothing = replace(self.changes.adapter, pairs={}, whole={}, token_rows={})
        return MergePlan.of(self.base, Changes(nothing, self.changes.tree, self.changes.model, self.base), "float32")

    def reference(
        self, context: TaskContext, dtypes: Mapping[str, torch.dtype] | None = None, *, exact: bool = True
    ) -> Generator[RunEvent, None, Reference]:
        """Compute the logits that the artefact is held against; see `reference_of`."""
        vocabulary, positions = self.changes.vocabulary, read_facts(self.base).max_position_embeddings
        rows = comparison_rows(self.source.config, self.tokenizer_files.tokenizer).with_tokens(self.changes.trained_tokens)
        if rows.missed is not None:
            yield Notice(
                level="warning",
                code="other_rows",
                hint=rows.missed.hint,
                message=f"The export is compared on general text, not on the run's held-out rows: {rows.missed.message}",
            )
        rows = rows.within(vocabulary.rows or len(self.tokenizer_files.tokenizer))
        most = most_tokens(len(rows.rows), vocabulary.rows or len(self.tokenizer_files.tokenizer))
        rows = rows.cut(min(most, positions) if positions else most)
        plan = self.plan

        def prepare(model: Any) -> None:
            if plan is not None:
                hold(model, plan.stored, plan.names)

        parts = ReferenceParts(self.base, self.source.adapter, self.changes.resized, prepare)
        reference = yield from reference_of(context, parts, rows, dtypes, exact=exact)
        if plan is not None and self.source.held_in:
            yield from self._as_trained(context, reference)
        return reference

    def _as_trained(self, context: TaskContext, reference: Reference) -> Generator[RunEvent]:
        """Compute what base + adapter answered in training, where that can be computed here."""
        held, stored = self.source.base_quantization, self.source.stored
        refused = quantization_finding(held, "cpu") or stored_finding(stored, held, "cpu")
        if refused is not None:
            return
        if held == NONE and self.trained_base == self.base:
            reference.trained = reference.expected  # in float32 packed weights give what they are unpacked to
            return
        yield from trained_logits(context, self.trained_base, self.source.adapter, held, reference, self.changes.resized)
