"""How a loaded model takes rows: beside each other with padding, end to end, packed; and whether it may be given attention of ours.

What a family's config says does not tell: some look at the name of the attention themselves, have a mask of their own, choose among a
row's tokens by how many there are, or look ahead. So it is tried out once, on two short rows: what the model gives for each of them
alone is what it has to give however they are laid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lora_studio.core.errors import InputError
from lora_studio.core.events import Notice
from lora_studio.data.token_rows import TokenRow
from lora_studio.kernels.batches import Batch, make_batch
from lora_studio.kernels.common_attention import Watch
from lora_studio.kernels.packed import is_plain_attention, packed_masks

_KEPT = "_lora_studio_conduct"
_LENGTHS = (11, 7)
_FEW = 4
_CHOOSERS = ("index_topk", "index_topk_blocks", "indexer_budget", "keep_window_size")
"""How many of a row's tokens a layer chooses: more than a short row has, so that no trial would show it."""
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.float16: 0.1}
_CLOSE_HALF = 0.15


@dataclass(frozen=True)
class Conduct:
    """How a model takes rows.

    Attributes:
        common: It may attend as `ReadyAttention` does: its layers go through transformers' attention functions with the masks that these
            have in common, and it gives the same.
        padding_free: So do rows laid end to end, each a document of its own.
        pads: Rows padded on the right, without a mask, give what each gives alone.
        pads_left: Prompts padded on the left, with a mask, are answered as each is alone.
        packs: So do rows packed into one with a mask that keeps them apart.
        causal: A token's logits do not depend on what comes behind it.
        selects: The output layer takes one hidden state for each token, once a pass, so that it may be given those chosen alone.
    """

    common: bool
    padding_free: bool
    pads: bool
    packs: bool
    causal: bool
    selects: bool = True
    pads_left: bool = True

    def refuse_packing(self) -> None:
        """Raise `InputError` when packed rows would leak into each other."""
        if not self.packs:
            raise InputError(
                "Rows packed together do not stay apart in this model: it was tried out on two of them.",
                "Switch packing off.",
                "data.packing",
            )

    def notice(self) -> Notice | None:
        """Return what a person who trains the model should know of it."""
        if not self.causal:
            return Notice(
                level="warning",
                code="looks_ahead",
                message="This model looks at the tokens that it is to predict: its loss says little.",
                hint="It was made to fill in gaps or to read, and generates no text as it is. Choose a causal language model.",
            )
        if not self.pads:
            return Notice(
                code="no_padding",
                message="This model's logits depend on padding: only rows of one length share a micro-batch.",
                hint="Steps take longer; what is learned is the same.",
            )
        return None


_UNKNOWN = Conduct(common=False, padding_free=False, pads=False, packs=False, causal=True, selects=False, pads_left=False)
"""Of a model that gave nothing to go by: each row by itself is always right."""


def conduct_of(model: nn.Module, ours: Callable[[], contextlib.AbstractContextManager[Any]]) -> Conduct:
    """Say how a causal language model, plain or with an adapter, takes rows; tried out once for each model.

    Args:
        model: The model; it is in evaluation mode meanwhile and draws no random numbers.
        ours: Opens attention of ours, with a `take` for each batch (`ReadyAttention`).
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    attention = getattr(base.config.get_text_config(), "_attn_implementation", None)
    kept = cast("tuple[object, Conduct] | None", base.__dict__.get(_KEPT))
    if kept is None or kept[0] != attention:
        kept = (attention, _Trial(model, ours).conduct())
        base.__dict__[_KEPT] = kept
    return kept[1]


class _Trial:
    """Two rows before a model: alone first, then laid in every way."""

    def __init__(self, model: nn.Module, ours: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._model = model
        self._ours = ours
        some = next(model.parameters())
        self._device = some.device
        quantized = getattr(cast("Any", model.config), "quantization_config", None) is not None
        self._close = _CLOSE_HALF if quantized else _CLOSE.get(some.dtype, _CLOSE_HALF)
        self._exact = self._close < _CLOSE_HALF
        self._rows = [_row(length, seed, self._vocabulary()) for seed, length in enumerate(_LENGTHS)]

    def conduct(self) -> Conduct:
        """Try everything; what raises an error is not to be done."""
        with _evaluating(self._model):
            try:
                with self._watching_head() as seen:
                    alone = [self._logits(make_batch([row]))[0] for row in self._rows]
                causal = self._is_causal(alone[0])
            except Exception:  # whatever it is that a family wants besides, training is to say it
                return _UNKNOWN
            if not all(bool(logits.isfinite().all()) for logits in alone):
                return _UNKNOWN  # nothing can be compared; the first evaluation or step says what is wrong
            watch = Watch(self._model)
            padded, joined = make_batch(self._rows), make_batch(self._rows, padding_free=True)
            takes = causal and not _chooses(self._model)
            pads = takes and self._same(alone, lambda: self._padded(padded, watch))
            common = pads and watch.is_common and self._same(alone, lambda: self._with_ours(padded))
            padding_free = common and self._same(alone, lambda: self._with_ours(joined))
            packs = padding_free if common else takes and self._same(alone, lambda: self._packed(joined))
            pads_left = takes and self._same([logits[-1:] for logits in alone], self._answered)
        selects = seen == [(1, row.input_ids.size) for row in self._rows]
        return Conduct(common, padding_free, pads, packs and is_plain_attention(self._model), causal, selects, pads_left)

    @contextlib.contextmanager
    def _watching_head(self) -> Generator[list[tuple[int, ...]]]:
        """Yield rows and tokens of all that goes through the output layer meanwhile."""
        seen: list[tuple[int, ...]] = []
        head: Any = self._model.get_output_embeddings()  # type: ignore[operator]
        handle = head.register_forward_pre_hook(lambda _head, inputs: seen.append(tuple(inputs[0].shape[:-1])))
        try:
            yield seen
        finally:
            handle.remove()

    def _vocabulary(self) -> int:
        return int(self._model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]

    def _logits(self, batch: Batch, **more: Any) -> Tensor:
        given: Any = self._model(input_ids=batch.input_ids.to(self._device), use_cache=False, **more)
        logits: Tensor = given.logits
        return logits.float()

    def _is_causal(self, alone: Tensor) -> bool:
        """Whether the first tokens' logits stay when others follow."""
        row = self._rows[0]
        other = row.input_ids.copy()
        other[-_FEW:] = self._rows[1].input_ids[:_FEW]
        changed = self._logits(make_batch([TokenRow(other, row.trained)]))[0]
        return self._alike(alone[:-_FEW], changed[:-_FEW])

    def _padded(self, batch: Batch, watch: Watch) -> list[Tensor]:
        with watch:
            return self._of_padded(self._logits(batch))

    def _answered(self) -> list[Tensor]:
        """Return the logits of the first token that answers each row, padded on the left as prompts are."""
        width = max(_LENGTHS)
        rows = [row.input_ids.tolist() for row in self._rows]
        ids = torch.tensor([[row[0]] * (width - len(row)) + row for row in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self._device)
        given: Any = self._model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=1,
            output_logits=True,
            return_dict_in_generate=True,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=None,
            pad_token_id=rows[0][0],
        )
        return list(given.logits[0].float().split(1))

    def _with_ours(self, batch: Batch) -> list[Tensor]:
        batch = batch.to(self._device)
        with self._ours() as attention:
            attention.take(batch)
            more = {} if batch.document_ids is None else {"position_ids": batch.position_ids}
            logits = self._logits(batch, **more)
        return self._of_padded(logits) if batch.document_ids is None else self._of_padding_free(logits)

    def _packed(self, batch: Batch) -> list[Tensor]:
        batch = batch.to(self._device)
        assert batch.document_ids is not None
        masks = packed_masks(self._model, batch.document_ids, next(self._model.parameters()).dtype)
        return self._of_padding_free(self._logits(batch, position_ids=batch.position_ids, attention_mask=masks))

    def _of_padded(self, logits: Tensor) -> list[Tensor]:
        return [logits[number, : row.input_ids.size] for number, row in enumerate(self._rows)]

    def _of_padding_free(self, logits: Tensor) -> list[Tensor]:
        first, second = _LENGTHS
        return [logits[0, :first], logits[0, first : first + second]]

    def _same(self, alone: list[Tensor], laid: Callable[[], list[Tensor]]) -> bool:
        try:
            found = laid()
        except Exception:  # a family that cannot be laid so says it in many ways
            return False
        return all(self._alike(one, other) for one, other in zip(alone, found))

    def _alike(self, wanted: Tensor, found: Tensor) -> bool:
        """Compare (T, V) logits token by token, by the spread of what is wanted.

        In half precision half of the tokens may be further off: a router that is undecided sends some elsewhere.
        """
        if wanted.shape != found.shape:
            return False
        spread = wanted.std(dim=-1).mean().clamp(min=1e-12)
        off = (wanted - found).pow(2).mean(dim=-1).sqrt() / spread
        return bool((off.amax() if self._exact else off.median()) <= self._close)


def _row(length: int, seed: int, vocabulary: int) -> TokenRow:
    """Make a row of tokens, none of the first few or the last, which are special in many vocabularies."""
    few = min(8, vocabulary // 4)
    ids = np.random.default_rng(seed).integers(few, max(few + 1, vocabulary // 2), length).astype(np.int32)
    return TokenRow(ids, np.ones(length, dtype=bool))


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation mode, without gradients; each of its modules is put back as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _chooses(model: nn.Module) -> bool:
    """Return whether a layer chooses a number of a row's tokens; of those alike it may take others when more stand behind."""
    return any(
        "Indexer" in type(module).__name__ or any(isinstance(module.__dict__.get(name), int) for name in _CHOOSERS)
        for module in model.modules()
    )
