"""Logits at chosen positions alone.

The output layer on every position is most of a small model's cost and most of the logits' memory; a loss needs it only where a token
is predicted. A hook in front of the output layer hands it those positions only, so whatever the model does to its logits behind it
(soft-capping, scaling) still happens, in every architecture.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from lora_studio.core.errors import StudioError
from lora_studio.generate.batches import Batch
from lora_studio.generate.packed import packed_masks


class SelectedHead:
    """A model whose output layer sees chosen positions only, while this is open as a context manager."""

    def __init__(self, model: nn.Module) -> None:
        """Take a causal language model, plain or with an adapter."""
        self._model = model
        self._positions: Tensor | None = None
        self._handle: Any = None

    def __enter__(self) -> Self:
        head = self._model.get_output_embeddings()  # type: ignore[operator]
        if not isinstance(head, nn.Module):
            raise StudioError("This model has no output layer over a vocabulary.", "Choose a causal language model.", "model.name_or_path")
        self._handle = head.register_forward_pre_hook(self._select)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handle.remove()
        self._positions = None

    def logits(self, batch: Batch) -> Tensor:
        """Run the model and give (N, V) logits, one row for each of the batch's positions, in the model's dtype."""
        self._positions = batch.positions
        try:
            logits: Tensor = self._model(input_ids=batch.input_ids, use_cache=False, **self._apart(batch)).logits
        finally:
            self._positions = None
        return logits[0]

    def _apart(self, batch: Batch) -> dict[str, Any]:
        """Give what keeps the documents of packed rows from seeing each other; nothing where no row is packed."""
        if batch.document_ids is None:
            return {}
        dtype = next(self._model.parameters()).dtype
        return {"position_ids": batch.position_ids, "attention_mask": packed_masks(self._model, batch.document_ids, dtype)}

    def _select(self, _head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None:
            return None
        hidden: Tensor = inputs[0]
        chosen = hidden.flatten(0, -2).index_select(0, self._positions)
        return (chosen.unsqueeze(0), *inputs[1:])


def token_loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Add up the cross entropy of (N, V) logits against (N,) targets, in float32."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
