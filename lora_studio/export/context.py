"""What one export works with, settled before anything is written."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError
from lora_studio.core.events import Notice, RunEvent
from lora_studio.export.gguf.adapter import refuse_beyond_gguf
from lora_studio.export.gguf.fit import OTHER_VOCABULARY
from lora_studio.export.gguf.model import check_outtype, refuse_model_beyond_gguf
from lora_studio.export.merge.changes import Changes
from lora_studio.export.merge.dequantized import hold
from lora_studio.export.merge.into import Original
from lora_studio.export.merge.merge_plan import Held, MergePlan
from lora_studio.export.merge.original import weights_apart
from lora_studio.export.mlx.adapter import refuse_beyond_mlx
from lora_studio.export.readable_names import refuse_unread
from lora_studio.export.redact import public_name
from lora_studio.export.source import AdapterSource
from lora_studio.export.verify.reference import Parts, Reference, most_tokens, reference_of, trained_logits
from lora_studio.export.verify.rows import comparison_rows
from lora_studio.export.verify.tokenizer_files import Papers, papers_of
from lora_studio.models.facts import read_facts
from lora_studio.models.quantization import NONE, quantization_finding
from lora_studio.models.stored_quantization import stored_finding

if TYPE_CHECKING:
    import torch

    from lora_studio.core.control import TaskContext


@dataclass(frozen=True)
class Work:
    """What one export works with.

    Attributes:
        source: The adapter.
        base: The base model's folder.
        changes: What the adapter does to the base.
        plan: The merge; None where nothing is merged.
        papers: What the artefact's tokenizer must be.
        run: Whether the artefact is to be run, or its tensors alone looked at.
        trained_base: Folder of the base that the adapter was trained on; another than `base` where that was quantized from this.
        merged_into: What is merged into, by its name.
        weights_apart: How far the two are apart; see `Findings`.
    """

    source: AdapterSource
    base: Path
    changes: Changes
    plan: MergePlan | None
    papers: Papers
    run: bool
    trained_base: Path
    merged_into: str
    weights_apart: float | None = None

    @classmethod
    def of(
        cls, source: AdapterSource, base: Path, kind: str, dtype: str | None, outtype: str, into: str, *, run: bool,
        original: Original | None = None,
    ) -> Work:
        """Settle it.

        Raises:
            InputError: The adapter does not fit the base, or cannot become what is asked for.
        """
        trained_base, base = base, original.folder if original else base
        apart = weights_apart(trained_base, base) if original else None
        name = public_name(original.name if original else source.base_name)
        changes = Changes.of(base, source.adapter)
        if kind == "gguf":
            check_outtype(outtype)
            refuse_model_beyond_gguf(base)
            dtype = "bfloat16" if outtype == "bf16" else "float32"
        elif kind in ("gguf-adapter", "mlx-adapter"):
            refuse = refuse_beyond_gguf if kind == "gguf-adapter" else refuse_beyond_mlx
            refuse(changes.adapter, base, changes.tree)
            if changes.resized:
                raise InputError(OTHER_VOCABULARY, "Export the merged model.", "kind")
        elif kind == "adapter":
            refuse_unread(changes)
        held = Held(source.base_quantization, source.config.model.dtype) if into == "dequantized" and source.config else None
        plan = MergePlan.of(base, changes, dtype, held) if kind in ("merged", "gguf") else None
        return cls(source, base, changes, plan, papers_of(base, source.adapter, source.config), run, trained_base, name, apart)

    @property
    def told_of_base(self) -> dict[str, Any]:
        """What a certificate tells of the base, where it was quantized while the adapter was trained: fields of `Findings`."""
        source = self.source
        if self.plan is None or source.stored is None:
            return {"held_in": source.held_in}
        if self.trained_base != self.base:
            return {"held_in": source.held_in, "merged_into": f"{self.merged_into}, in full precision", "weights_apart": self.weights_apart}
        return {"held_in": source.held_in, "merged_into": f"{self.merged_into}, unpacked to {self.plan.dtype}"}

    def reference(
        self, context: TaskContext, dtypes: Mapping[str, torch.dtype] | None = None, *, exact: bool = True
    ) -> Generator[RunEvent, None, Reference]:
        """Compute the logits that the artefact is held against; see `reference_of`."""
        vocabulary, positions = self.changes.vocabulary, read_facts(self.base).max_position_embeddings
        rows = comparison_rows(self.source.config, self.papers.tokenizer).with_tokens(self.changes.trained_tokens)
        if rows.missed is not None:
            yield Notice(level="warning", code="other_rows", hint=rows.missed.hint,
                         message=f"The export is compared on general text, not on the run's held-out rows: {rows.missed.message}")
        rows = rows.within(vocabulary.rows or len(self.papers.tokenizer))
        most = most_tokens(len(rows.rows), vocabulary.rows or len(self.papers.tokenizer))
        rows = rows.cut(min(most, positions) if positions else most)
        plan = self.plan

        def prepare(model: Any) -> None:
            if plan is not None:
                hold(model, plan.stored, plan.names)

        parts = Parts(self.base, self.source.adapter, self.changes.resized, prepare)
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
