"""Watches a model attend: do its layers go through transformers' attention functions, with the masks that these have in common?

A short row does not show a window of thousands of tokens. So masks are asked, as they are made, about tokens far apart, and each call of
the attention function is held against the mask that it is given.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_SDPA = "sdpa"
_KNOWN = {"dropout", "scaling", "sliding_window", "position_ids", "is_causal"}
"""Options of an attention function that ours knows, or that say nothing which the mask does not."""
_FAR = 64

Watched = tuple[Tensor, int | None]
"""A mask as it was made, and the window that it has; a negative one if it is none of the common ones."""


class Watch:
    """Watches what the layers of one model attend to by PyTorch's attention, while open as a context manager.

    Attributes:
        calls: Whether each call of the attention function was one that ours can take.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {id(module) for module in model.modules()}
        self._made: list[Watched] = []
        self.calls: list[bool] = []

    @property
    def is_common(self) -> bool:
        """Whether there was attention, and all of it with a common mask."""
        return bool(self.calls) and all(self.calls)

    def __enter__(self) -> Self:
        attentions, masks = cast("Any", ALL_ATTENTION_FUNCTIONS), cast("Any", ALL_MASK_ATTENTION_FUNCTIONS)
        attentions[_SDPA], masks[_SDPA] = self._attend, self._mask
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del ALL_ATTENTION_FUNCTIONS[_SDPA], ALL_MASK_ATTENTION_FUNCTIONS[_SDPA]
        self._made = []

    def _mask(self, *arguments: Any, **options: Any) -> Tensor | None:
        """Make a mask as transformers does, but always, and remember it."""
        mask = sdpa_mask(*arguments, **{**options, "allow_is_causal_skip": False})
        if mask is not None:
            self._made.append((mask, _window_of(options.get("mask_function"), cast("int | None", options.get("local_size")))))
        return mask

    def _attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if id(module) in self._modules:  # another thread's model is none of ours
            self.calls.append(self._is_ours(module, query, key, attention_mask, options))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    def _is_ours(self, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
        causal = options.get("is_causal")
        known = all(name in _KNOWN or not _weighs(value) for name, value in options.items())
        square = query.shape[2] == key.shape[2] and query.shape[1] % key.shape[1] == 0
        looks_back = getattr(module, "is_causal", True) if causal is None else causal
        return known and square and bool(looks_back) and self._windows(mask) == {options.get("sliding_window")}

    def _windows(self, mask: Tensor | None) -> set[int | None]:
        """Return the windows of the made mask that this one is; none if it is no such mask, or was changed since."""
        return {
            window
            for made, window in self._made
            if mask is not None and mask.data_ptr() == made.data_ptr() and mask.shape == made.shape and mask.dtype == made.dtype
        }


def _weighs(option: object) -> bool:
    """Whether an option could change what attention gives: flags of what is returned do not."""
    return isinstance(option, Tensor | float | str) or (isinstance(option, int) and not isinstance(option, bool))


def _window_of(mask_function: Any, window: int | None) -> int | None:
    """Return the window of a mask, found by asking it about tokens far apart; a negative one where it sees others than a window."""
    if mask_function is None:
        return window
    length = 3 * (window or _FAR) + 2
    queries = torch.tensor(sorted({0, 1, length // 3 - 1, length // 3, length // 3 + 1, length // 2, length - 1}))[:, None]
    keys = torch.arange(length)
    zero = torch.zeros((), dtype=torch.int64)
    try:
        seen = cast("Tensor", mask_function(zero, zero, queries, keys))
    except (IndexError, RuntimeError, TypeError):
        return -1
    wanted = (keys <= queries) & (queries - keys < (window or length))
    return window if torch.equal(seen.expand_as(wanted).cpu(), wanted) else -1
