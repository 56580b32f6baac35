"""What a model attends with while a loss is taken: masks that are ready, one for each window, and none where none is needed.

Left to itself, transformers looks at the positions of every batch, on the device, to find out whether rows are packed, and waits for
the answer. Here it is known beforehand. So the model is given an attention of our own for the length of a pass, forwards and backwards:
the same product as before, with its mask picked by the layer's window, or attention over documents of any length, for which no mask is
made at all: on a processor our own, and for packed rows on a card that can, PyTorch's.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lora_studio.kernels.batches import Batch
from lora_studio.kernels.block_attention import AttentionLayout, attend_in_blocks, documents_apart, rows_apart
from lora_studio.kernels.conduct import Conduct, conduct_of
from lora_studio.kernels.packed import is_plain_attention, visible
from lora_studio.kernels.varlen import attend_varlen, has_varlen

_LOOKS_FOR_PADDING = "warn_if_padding_and_no_attention_mask"  # reads each batch for it; padding stands behind all that it might disturb

_UNTRIED = Conduct(common=True, padding_free=True, pads=True, packs=True, causal=True)
_DROPOUTS = ("attention_dropout", "attn_pdrop")


class ReadyAttention:
    """Gives a model its attention while this is open as a context manager; may be opened again.

    Attributes:
        conduct: How the model takes rows.
        usable: Whether it is given attention of ours; others keep what they have.
    """

    def __init__(self, model: nn.Module, *, trying: bool = False) -> None:
        """Take a causal language model of transformers, plain or with an adapter; `trying` is for the trial that finds its conduct."""
        whole: Any = model.config
        self._config: Any = whole.get_text_config()
        self._name = f"lora_studio_{id(self._config):x}"
        self._before: Any = None
        self._batch: Batch | None = None
        self._masks: dict[tuple[int | None, int], Tensor] = {}
        self._varlen = False
        self._layouts: dict[torch.Size, AttentionLayout] = {}
        causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._inner: Any = causal.base_model
        possible = self._config is whole and self._config._attn_implementation == "sdpa" and is_plain_attention(model)
        self.conduct = _UNTRIED if trying else conduct_of(model, lambda: ReadyAttention(model, trying=True))
        self.usable = possible and self.conduct.common

    @property
    def padding_free(self) -> bool:
        """Whether a processor takes rows laid end to end as it takes them by themselves: attention has no dropout."""
        return self.usable and self.conduct.padding_free and not any(getattr(self._config, name, None) for name in _DROPOUTS)

    def __enter__(self) -> Self:
        if self.usable:
            self._before = self._config._attn_implementation
            ALL_ATTENTION_FUNCTIONS[self._name] = self._attend
            self._config._attn_implementation_internal = self._name
            setattr(self._inner, _LOOKS_FOR_PADDING, lambda *_arguments: None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.usable:
            self._config._attn_implementation_internal = self._before
            del ALL_ATTENTION_FUNCTIONS[self._name]
            delattr(self._inner, _LOOKS_FOR_PADDING)
        self.take(None)

    def take(self, batch: Batch | None) -> None:
        """Attend within this batch's documents from now on; with None, to all that came before."""
        self._batch, self._masks, self._layouts = batch, {}, {}
        self._varlen = batch is not None and batch.borders is not None and has_varlen(batch.input_ids.device)

    def _attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Attend as transformers' attention functions do: (B, heads, T, D) in, (B, T, heads, D) out. Their mask is not looked at: it
        is either none or one that ours says too."""
        del attention_mask
        window = cast("int | None", options.get("sliding_window"))
        scale = cast("float | None", options.get("scaling"))
        batch = self._batch
        if self._varlen and batch is not None and batch.borders is not None and query.dtype in (torch.bfloat16, torch.float16):
            return attend_varlen(query, key, value, batch.borders, batch.longest_document, scale, window), None
        if query.device.type == "cpu" and not options.get("dropout") and not torch.compiler.is_compiling():
            return attend_in_blocks(query, key, value, self._laid_out(query), scale, window), None
        return sdpa_attention_forward(module, query, key, value, self._mask(query, window), **options)

    def _laid_out(self, query: Tensor) -> AttentionLayout:
        """Return how the batch's documents are laid out; the layers of a pass share it."""
        ids = query.shape[::2]  # rows and tokens: a pass without documents may be of any
        if ids not in self._layouts:
            borders = None if self._batch is None else self._batch.borders
            self._layouts[ids] = rows_apart(*ids) if borders is None else documents_apart(borders.tolist())
        return self._layouts[ids]

    def _mask(self, query: Tensor, window: int | None) -> Tensor | None:
        """Return (B or 1, 1, T, T) of what may be seen; None for all that came before, which needs no mask."""
        length = query.shape[2]
        documents = None if self._batch is None else self._batch.document_ids
        window = window if window is not None and window < length else None
        if documents is None and window is None:
            return None
        if (window, length) not in self._masks:
            one = torch.ones(1, length, dtype=torch.int64, device=query.device) if documents is None else documents
            self._masks[window, length] = visible(one, window)
        return self._masks[window, length]
