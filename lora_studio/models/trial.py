"""Where an adapter would learn nothing, found by sending a row of text through the model on the meta device, and a gradient back.

Some projections are never called (cross-attention and vision where there is no image, a weight that is read past its module), and others
decide without a gradient (an indexer's, which only choose). On the meta device there are shapes and no numbers, so this costs no memory
and little time. What a model asks of numbers is answered with zeros. Where that is not enough, nothing is known, and nothing is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

NOT_CALLED = "text does not pass through it"
READ_PAST = "its weight is read past an adapter"
NO_GRADIENT = "it only decides, and no gradient comes back to it"
_TOKENS = 8
_aten = torch.ops.aten


class _Zeros(TorchDispatchMode):
    """Answers what a model asks of numbers that are not there: single ones are 0 or false, and of what is searched one is found."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is _aten._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype, device="cpu").item()
        if func is _aten.nonzero.default:
            return args[0].new_empty((1, args[0].dim()), dtype=torch.long)
        if func is _aten.index.Tensor:
            args = (args[0], list(_places(args[0], args[1])), *args[2:])
        return func(*args, **(kwargs or {}))


def _places(tensor: torch.Tensor, indices: Collection[torch.Tensor | None]) -> Iterator[torch.Tensor | None]:
    """Return indices with one place for every mask among them."""
    for index in indices:
        if index is None or index.dtype is not torch.bool:
            yield index
        else:
            yield from (tensor.new_empty(1, dtype=torch.long) for _ in range(index.dim()))


class _Probes:
    """Adds a zero to what modules give, as an adapter's B·A·x is added, to see whether a gradient comes back to it."""

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        """Take the modules, and parameters that an adapter is put on by their own name; those are seen where their module is called."""
        self._model = model
        self.called: set[str] = set()
        self.leaves: list[tuple[str, torch.Tensor]] = []
        self.weights: list[tuple[str, torch.Tensor]] = []
        modules = dict(model.named_modules())
        self._modules = {name: modules[name] for name in names if name in modules}
        self._owners = {name: name.rpartition(".") for name in names if name not in modules}

    @contextlib.contextmanager
    def placed(self) -> Generator[None]:
        """Watch the modules within a `with` block."""
        with contextlib.ExitStack() as hooks:
            for name, module in self._modules.items():
                hooks.enter_context(contextlib.closing(_Hook(module, self._adding(name))))
                self.weights.append((name, module.get_parameter("weight").requires_grad_(True)))
            for name, (owner, _, parameter) in self._owners.items():
                module = self._model.get_submodule(owner)
                hooks.enter_context(contextlib.closing(_Hook(module, self._noting(name))))
                self.leaves.append((name, getattr(module, parameter).requires_grad_(True)))
            yield

    def _adding(self, name: str) -> Any:
        def add(_module: nn.Module, _given: Any, found: Any) -> Any:
            self.called.add(name)
            if not isinstance(found, torch.Tensor):
                return found
            leaf = torch.zeros((), dtype=found.dtype, device=found.device, requires_grad=True)
            self.leaves.append((name, leaf))
            return found + leaf

        return add

    def _noting(self, name: str) -> Any:
        def note(_module: nn.Module, _given: Any, _found: Any) -> None:
            self.called.add(name)

        return note


class _Hook:
    """A forward hook that `close` takes off again."""

    def __init__(self, module: nn.Module, hook: Any) -> None:
        self._handle = module.register_forward_hook(hook)

    def close(self) -> None:
        self._handle.remove()


def idle_modules(model: PreTrainedModel, names: Collection[str]) -> dict[str, str]:
    """Say of which modules and parameters an adapter would learn nothing from text, and why.

    Args:
        model: On the meta device; its weights are frozen.
        names: Modules, or parameters, that an adapter can go on.

    Returns:
        The reason by name, a sentence without its full stop; nothing where the model could not be tried.
    """
    model.requires_grad_(False)
    probes = _Probes(model, names)
    try:
        with probes.placed():
            reached, read = _reached(model, probes)
    except Exception:  # whatever a family's own code raises where numbers are zeros or on another device
        return {}
    finally:
        model.requires_grad_(False)
    reasons = {
        name: NO_GRADIENT if name in probes.called else READ_PAST if name in read else NOT_CALLED for name in names if name not in reached
    }
    return {} if len(reasons) == len(names) else reasons


def _reached(model: PreTrainedModel, probes: _Probes) -> tuple[set[str], set[str]]:
    """Return the names to which a gradient comes back as to an adapter, and those to whose weight one comes back."""
    with contextlib.suppress(Exception):  # families without fused experts, and those that cannot choose, have their own way
        model.set_experts_implementation("batched_mm")
    model.eval()
    with torch.enable_grad(), torch.device("meta"), _Zeros():
        tokens = torch.zeros((1, _TOKENS), dtype=torch.long)
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        leaves = [leaf for _, leaf in (*probes.leaves, *probes.weights)]
        found = torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
    put = len(probes.leaves)
    return _named(probes.leaves, found[:put]), _named(probes.weights, found[put:])


def _named(leaves: list[tuple[str, torch.Tensor]], gradients: tuple[torch.Tensor | None, ...]) -> set[str]:
    return {name for (name, _), gradient in zip(leaves, gradients, strict=True) if gradient is not None}
