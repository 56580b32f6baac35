"""Logits and losses at chosen positions alone.

The output layer on every position is most of a small model's cost and most of the logits' memory; a loss needs it only where a token
is predicted. A hook in front of the output layer hands it those positions only, so whatever the model does to its logits behind it
(soft-capping, scaling) still happens, in every architecture. Where the layer is frozen and nothing happens behind it, not even
these logits are made at once: see `head_loss`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lora_studio.core.errors import StudioError
from lora_studio.kernels.attention import ReadyAttention
from lora_studio.kernels.batches import Batch
from lora_studio.kernels.conduct import Conduct
from lora_studio.kernels.head_loss import frozen_head_loss
from lora_studio.kernels.packed import packed_masks

_TRIED_TOKENS = 8


class SelectedHead:
    """A model whose output layer sees chosen positions only, while this is open as a context manager; may be opened again.

    It has to be open until the backward pass is over: what is computed again there attends as it did.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take a causal language model, plain or with an adapter."""
        self._model = model
        self._positions: Tensor | None = None
        self._hidden: Tensor | None = None
        self._spared = False
        self._bare: bool | None = None
        self._handle: Any = None
        self._attention = ReadyAttention(model)

    def __enter__(self) -> Self:
        self._attention.__enter__()
        self._handle = self._head.register_forward_pre_hook(self._select)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handle.remove()
        self._attention.__exit__(kind, error, trace)
        self._positions = self._hidden = None

    @property
    def padding_free(self) -> bool:
        """Whether rows are best laid end to end on a processor (`ReadyAttention.padding_free`)."""
        return self._attention.padding_free

    @property
    def conduct(self) -> Conduct:
        """How the model takes rows."""
        return self._attention.conduct

    @property
    def _head(self) -> nn.Module:
        head = self._model.get_output_embeddings()  # type: ignore[operator]
        if not isinstance(head, nn.Module):
            raise StudioError("This model has no output layer over a vocabulary.", "Choose a causal language model.", "model.name_or_path")
        return head

    def logits(self, batch: Batch) -> Tensor:
        """Run the model and give (N, V) logits, one row for each of the batch's positions, in the model's dtype."""
        self._attention.take(batch)
        if not self.conduct.selects:
            whole: Tensor = self._model(input_ids=batch.input_ids, use_cache=False, **self._apart(batch)).logits
            return whole.flatten(0, 1).index_select(0, batch.positions)
        self._positions = batch.positions
        try:
            logits: Tensor = self._model(input_ids=batch.input_ids, use_cache=False, **self._apart(batch)).logits
        finally:
            self._positions = None
        return logits[0]

    def loss_sum(self, batch: Batch) -> Tensor:
        """Run the model and add up the cross entropy of the batch's targets, in float32.

        The logits exist a block at a time where the output layer is frozen and gives the model's logits as they are.
        """
        if not self.bare(batch):
            return token_loss_sum(self.logits(batch), batch.targets)
        self._spared = True
        try:
            self.logits(batch)
        finally:
            self._spared = False
        head, hidden, self._hidden = self._head, self._hidden, None
        assert isinstance(head, nn.Linear)
        assert hidden is not None
        return frozen_head_loss(hidden, head, batch.targets)

    def bare(self, batch: Batch) -> bool:
        """Return whether the output layer is a frozen matrix whose product is what the model gives; tried out once, on a few tokens."""
        if self._bare is None:
            head = self._head
            hooks = cast("Any", head)
            hooked = len(hooks._forward_pre_hooks) > 1 or bool(hooks._forward_hooks)  # one is our own
            frozen = type(head) is nn.Linear and not any(parameter.requires_grad for parameter in head.parameters())
            self._bare = frozen and not hooked and self.conduct.selects and self._given_as_made(head, batch.input_ids[:1, :_TRIED_TOKENS])
        return self._bare

    @torch.no_grad()
    def _given_as_made(self, head: nn.Module, input_ids: Tensor) -> bool:
        made: list[Any] = []
        handle = head.register_forward_hook(lambda _head, _inputs, output: made.append(output))
        training = self._model.training
        self._model.eval()  # draws no random numbers
        self._attention.take(None)
        try:
            given: Tensor = self._model(input_ids=input_ids, use_cache=False).logits
        finally:
            self._model.train(training)
            handle.remove()
        return len(made) == 1 and torch.equal(given, made[0])

    def _apart(self, batch: Batch) -> dict[str, Any]:
        """Return what tells the documents of packed rows apart; nothing where no row is packed."""
        if batch.document_ids is None:
            return {}
        if self._attention.usable:
            return {"position_ids": batch.position_ids}
        dtype = next(self._model.parameters()).dtype
        return {"position_ids": batch.position_ids, "attention_mask": packed_masks(self._model, batch.document_ids, dtype)}

    def _select(self, _head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None:
            return None
        hidden: Tensor = inputs[0]
        chosen = hidden.flatten(0, -2).index_select(0, self._positions)
        if self._spared:
            self._hidden = chosen
            chosen = chosen[:0]
        return (chosen.unsqueeze(0), *inputs[1:])


def token_loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Add up the cross entropy of (N, V) logits against (N,) targets, in float32."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
