"""Computing a model so that what its weights are can be told from how they are added up: in float64 throughout, and in another order.

Two right models differ by the noise of float32, which grows with depth and width: 1e-4 of a logit for the starter. In float64 it is a
billion times smaller. Many families compute norms, rotations and softmax in float32 by name; here those are float64 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext as _as_it_is
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

_PROBE = 8  # tokens on which it is tried out whether a model computes in float64
_TIMES_NOISE = 16.0
# Of the largest logit: a value in float64 has sixteen digits, of which a deep model's sums cost six at most.
_LEAST = {True: 1e-10, False: 64 * torch.finfo(torch.float32).eps}


class ComparisonPrecision:
    """How the models of one comparison compute.

    Attributes:
        wide: Whether in float64.
        narrowed: Whether some values were in float32 all the same, so that its noise is float32's.
    """

    def __init__(self, *, wide: bool) -> None:
        """Take note of it; `of` finds it out."""
        self.wide = wide
        self.narrowed = False

    @classmethod
    def of(cls, model: Any, row: Sequence[int]) -> ComparisonPrecision:
        """Bring a model to float64 where it computes in it, else leave it in float32.

        Args:
            model: In float32, on the CPU.
            row: Token ids to try it on.
        """
        found = cls(wide=True)
        try:
            found.take(model)
            found.logits(model, row[:_PROBE])
        except (RuntimeError, NotImplementedError, TypeError, ValueError):  # an operation that there is in float32 alone
            model.float()
            return cls(wide=False)
        return found

    @property
    def name(self) -> str:
        """The dtype, as it is told."""
        return "float64" if self.wide else "float32"

    def take(self, model: Any) -> Any:
        """Bring a model in float32 to this precision; its values stay what they are."""
        if not self.wide:
            return model
        choose = getattr(model, "set_experts_implementation", None)
        if choose is not None and hasattr(model.config, "num_experts_per_tok"):
            choose("eager")  # the grouped product of all experts there is in float32 and below
        return model.double()

    def logits(self, model: Any, row: Sequence[int], *, reordered: bool = False) -> Tensor:
        """Return a row's logits, positions × vocabulary, on the CPU.

        Args:
            model: In this precision.
            row: Token ids; no padding.
            reordered: Whether sums are taken from their other end.
        """
        device = next(model.parameters()).device
        model.eval()
        widening = _InFloat64()
        with torch.inference_mode(), widening if self.wide else _as_it_is(), _OtherOrder() if reordered else _as_it_is():
            found: Tensor = model(input_ids=torch.tensor([list(row)], device=device), use_cache=False).logits[0]
        self.narrowed = self.narrowed or widening.narrowed
        return found.cpu()

    def limit(self, noise: float, scale: float) -> float:
        """Say how far two right models may be apart.

        Args:
            noise: The largest difference of a logit of one model computed in two orders.
            scale: The largest logit.
        """
        return max(_TIMES_NOISE * noise, _LEAST[self.wide and not self.narrowed] * scale)


class _InFloat64(TorchDispatchMode):
    """Makes float64 of whatever asks for float32.

    Attributes:
        narrowed: Whether a value in float64 became one in less all the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.narrowed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = tuple(_widened(value) for value in args)
        asked = {name: _widened(value) for name, value in (kwargs or {}).items()}
        result = func(*given, **asked)
        if not self.narrowed and _has(result, _is_narrow):
            self.narrowed = _has((given, asked), lambda tensor: tensor.dtype is torch.float64)
        return result


class _OtherOrder(TorchFunctionMode):
    """Takes the sums of matrix products from their other end: the same function, other roundings."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        turn = _TURNED.get(func) if len(args) > 1 else None  # factors given by name stay as they are
        return func(*(turn(args) if turn else args), **(kwargs or {}))


def _turned_linear(given: Sequence[Any]) -> Iterable[Any]:
    values, weight, *others = given
    return (values.flip(-1), weight.flip(-1), *others)


def _turned_product(given: Sequence[Any]) -> Iterable[Any]:
    left, right, *others = given
    return given if left.dim() < 2 or right.dim() < 2 else (left.flip(-1), right.flip(-2), *others)


def _turned_sum(given: Sequence[Any]) -> Iterable[Any]:
    if len(given) < 3:
        return given
    added, left, right, *others = given
    return (added, left.flip(-1), right.flip(-2), *others)


_TURNED: dict[Any, Callable[[Sequence[Any]], Iterable[Any]]] = {
    functional.linear: _turned_linear,
    torch.addmm: _turned_sum,
    torch.baddbmm: _turned_sum,
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__), _turned_product),
}


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype is not torch.float64


def _has(values: Any, is_so: Callable[[Tensor], bool]) -> bool:
    return any(is_so(leaf) for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor))
