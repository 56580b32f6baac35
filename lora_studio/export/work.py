"""What one export works with, settled before anything is written."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.events import RunEvent
from lora_studio.export.changes import Changes
from lora_studio.export.gguf_adapter import refuse_beyond_gguf
from lora_studio.export.gguf_model import check_outtype, refuse_model_beyond_gguf
from lora_studio.export.held_base import hold
from lora_studio.export.merge_plan import Held, MergePlan
from lora_studio.export.papers import Papers, papers_of
from lora_studio.export.reference import Reference, most_tokens, reference_of, trained_logits
from lora_studio.export.rows import comparison_rows
from lora_studio.export.source import AdapterSource
from lora_studio.models.quantization import NONE, quantization_finding

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
    """

    source: AdapterSource
    base: Path
    changes: Changes
    plan: MergePlan | None
    papers: Papers
    run: bool

    @classmethod
    def of(cls, source: AdapterSource, base: Path, kind: str, dtype: str | None, outtype: str, into: str, *, run: bool) -> Work:
        """Settle it.

        Raises:
            InputError: The adapter does not fit the base, or cannot become what is asked for.
        """
        changes = Changes.of(base, source.adapter)
        if kind == "gguf":
            check_outtype(outtype)
            refuse_model_beyond_gguf(base)
            dtype = "bfloat16" if outtype == "bf16" else "float32"
        elif kind == "gguf-adapter":
            refuse_beyond_gguf(changes.adapter, base, changes.tree)
        held = Held(source.base_quantization, source.config.model.dtype) if into == "dequantized" and source.config else None
        plan = MergePlan.of(base, changes, dtype, held) if kind in ("merged", "gguf") else None
        return cls(source, base, changes, plan, papers_of(base, source.adapter, source.config), run)

    def reference(self, context: TaskContext, dtypes: Mapping[str, torch.dtype] | None = None) -> Generator[RunEvent, None, Reference]:
        """Compute the logits that the artefact is held against.

        Args:
            context: The host's.
            dtypes: How its parameters are rounded, by name; None where none is.
        """
        rows = comparison_rows(self.source.config, self.papers.tokenizer)
        rows = rows.cut(most_tokens(len(rows.rows), len(self.papers.tokenizer)))
        base, adapter, plan = self.base, self.source.adapter, self.plan

        def prepare(model: Any) -> None:
            if plan is not None:
                hold(model, plan.stored, plan.names)

        reference = yield from reference_of(context, base, adapter, rows, self.changes.resized, dtypes, prepare)
        held = self.source.base_quantization
        if plan is not None and held != NONE and quantization_finding(held, "cpu") is None:
            yield from trained_logits(context, base, adapter, held, reference)
        return reference
