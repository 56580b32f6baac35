"""Whether the device computes what it should: each piece of ours against the plain one, on the same device.

In float32 both are held against each other. In half precision both round, each in its own order, so ours is held against float32: it may
be as far from it as the plain one is, and half as far again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from benchmarks.gpu.call import Row, Setting
from benchmarks.gpu.common import (
    HALF,
    SINGLE,
    Gradients,
    distance,
    gradients,
    norm,
    peak_of,
    place,
    relative,
    tiny_adapted,
)
from benchmarks.gpu.timing import seconds_of
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.token_rows import TokenRow, end_to_end
from lora_studio.kernels.batches import Batch, make_batch, trained_count
from lora_studio.kernels.fused_lora import fused_lora_layers
from lora_studio.kernels.fused_model import fused_layers
from lora_studio.kernels.fused_rms_norm import fused_rms_norms
from lora_studio.kernels.fused_swiglu import fused_swiglus
from lora_studio.kernels.head import SelectedHead, token_loss_sum
from lora_studio.kernels.head_loss import frozen_head_loss
from lora_studio.kernels.varlen import has_varlen, largest_error
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import StepOutcome, Stepper
from tests.tiny import ARCHITECTURES
from tests.train.helpers import token_rows

_TIGHT_LOSS, _TIGHT_GRADIENT = 1e-5, 1e-4
_ROUNDING = 1.5
"""How many times the plain way's distance from float32 ours may have in half precision."""
_HALF_FLOOR = 2e-3
"""Below this distance from float32 a comparison in half precision says nothing: one rounding of a loss is 4e-3 of it."""
PendingStep = tuple[float, Gradients]


def families(setting: Setting) -> Iterator[Row]:
    """Compare the first loss and gradient of every tested family with plain transformers + PEFT, a row at a time, without padding."""
    rows = token_rows(8, longest=40)
    for architecture in ARCHITECTURES:
        exact: PendingStep | None = None
        for dtype in (SINGLE, HALF):
            model = tiny_adapted(setting, architecture, dtype).eval()  # gpt2 has dropout of its own
            plain, own = _plainly(model, rows, dtype), _by_the_studio(model, rows, dtype)
            exact = exact or plain
            yield _compared(f"{architecture} in {_called(dtype)}", own, plain, exact, tight=dtype == SINGLE)


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _plainly(model: PeftModel, rows: list[TokenRow], dtype: torch.dtype) -> PendingStep:
    """Let transformers compute the loss of each row by itself; the mean is over all trained tokens."""
    device = next(model.parameters()).device
    everything = sum(trained_count(row) for row in rows)
    total = 0.0
    for row in rows:
        ids = torch.from_numpy(row.input_ids).long().to(device)[None]
        labels = torch.where(torch.from_numpy(row.trained).to(device), ids[0], -100)[None]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != SINGLE):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss * (trained_count(row) / everything)
        loss.backward()
        total += float(loss.detach())
    return total, gradients(model)


def _by_the_studio(model: PeftModel, rows: list[TokenRow], dtype: torch.dtype) -> PendingStep:
    """Let the studio's step do it, as it trains on this device."""
    device = next(model.parameters()).device
    precision = Precision(device, dtype)
    stepper = Stepper(model, TrainingSettings(max_grad_norm=0), precision)
    kept: list[Gradients] = []
    apply = stepper.optimizer.step
    stepper.optimizer.step = lambda: (kept.append({name: own.grad.double().cpu() for name, own in stepper.parameters.items()}), apply())
    everything = sum(trained_count(row) for row in rows)
    with precision.fused_inputs(model), fused_layers(model, parts=device.type == "cpu"):
        for start in range(0, len(rows), 4):
            stepper.accumulate(
                make_batch(rows[start : start + 4], padding_free=stepper.padding_free and device.type == "cpu"), everything, start
            )
        stepper.step(0.0)
    (outcome,) = stepper.post().read()
    (found,) = kept
    return outcome.loss, found


def _compared(what: str, own: PendingStep, plain: PendingStep, exact: PendingStep, *, tight: bool) -> Row:
    """Hold the studio's loss and gradient against the plain ones."""
    loss_off, gradient_off = relative(own[0], plain[0]), distance(own[1], plain[1])
    figures: dict[str, Any] = {
        "loss": own[0],
        "plain": plain[0],
        "loss off": loss_off,
        "gradient norm off": relative(norm(own[1]), norm(plain[1])),
        "gradient off": gradient_off,
    }
    if tight:
        return Row(what, figures, loss_off <= _TIGHT_LOSS and gradient_off <= _TIGHT_GRADIENT)
    own_off, plain_off = distance(own[1], exact[1]), distance(plain[1], exact[1])
    loss_bound = max(_HALF_FLOOR, _ROUNDING * relative(plain[0], exact[0]))
    figures |= {"gradient off float32": own_off, "plain's off float32": plain_off}
    fits = relative(own[0], exact[0]) <= loss_bound and own_off <= max(_HALF_FLOOR, _ROUNDING * plain_off)
    return Row(what, figures, fits)


_MEDIUM = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 4}
_KERNELS: tuple[tuple[str, Callable[[nn.Module], contextlib.AbstractContextManager[None]]], ...] = (
    ("LoRA", fused_lora_layers),
    ("norms", fused_rms_norms),
    ("MLPs", fused_swiglus),
)


def kernels(setting: Setting) -> Iterator[Row]:
    """Compare a model's loss and gradient with each kind of fused module switched on, and with plain ones."""
    rows = token_rows(8, longest=96)
    for architecture in ("llama", "qwen3", "gemma3"):
        model = tiny_adapted(setting, architecture, **_MEDIUM)
        exact = _with(contextlib.nullcontext, model, rows, SINGLE)
        for name, fused in _KERNELS:
            if name == "MLPs" and architecture == "gemma3":
                continue  # gated by another function than SiLU
            counted = _fused_count(fused, model)
            yield Row(f"{name} of {architecture}: modules fused", {"modules": counted}, counted > 0)
            for dtype in (SINGLE, HALF, torch.float16):
                plain = exact if dtype == SINGLE else _with(contextlib.nullcontext, model, rows, dtype)
                own = _with(lambda fused=fused, model=model: fused(model), model, rows, dtype)
                yield _compared(f"{name} of {architecture} in {_called(dtype)}", own, plain, exact, tight=dtype == SINGLE)


def _fused_count(fused: Callable[[nn.Module], contextlib.AbstractContextManager[None]], model: nn.Module) -> int:
    """Count the modules that compute otherwise inside than outside."""
    before = {module: (type(module), vars(module).get("forward")) for module in model.modules()}
    with fused(model):
        return sum((type(module), vars(module).get("forward")) != seen for module, seen in before.items())


def _with(
    fused: Callable[[], contextlib.AbstractContextManager[None]],
    model: PeftModel,
    rows: list[TokenRow],
    dtype: torch.dtype,
) -> PendingStep:
    device = next(model.parameters()).device
    batch = make_batch(rows).to(device)
    with fused(), SelectedHead(model) as selected:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != SINGLE):
            loss = selected.loss_sum(batch) / len(batch.targets)
        loss.backward()
    return float(loss.detach()), gradients(model)


def head(setting: Setting) -> Iterator[Row]:
    """Compare the frozen head's loss with that of whole logits: numbers, and on a card memory and time."""
    device = place(setting)
    positions, hidden, words = (130, 64, 1000) if setting.tiny else (4096, 2048, 128_256)
    numbers = torch.Generator(device).manual_seed(0)
    x = torch.randn(positions, hidden, generator=numbers, device=device)
    targets = torch.randint(0, words, (positions,), generator=numbers, device=device)
    exact: tuple[Tensor, Tensor] | None = None
    for dtype in (SINGLE, HALF, torch.float16):
        layer = nn.Linear(hidden, words, bias=False, device=device)
        torch.manual_seed(0)
        nn.init.normal_(layer.weight, std=hidden**-0.5).requires_grad_(False)
        plain, plain_peak, plain_seconds = _head_pass(lambda y, layer=layer: token_loss_sum(layer(y), targets), x, dtype)
        own, own_peak, own_seconds = _head_pass(lambda y, layer=layer: frozen_head_loss(y, layer, targets), x, dtype)
        exact = exact or plain
        off, plain_off = _apart(own[1], exact[1]), _apart(plain[1], exact[1])
        bound = _TIGHT_LOSS if dtype == SINGLE else max(_HALF_FLOOR, _ROUNDING * plain_off)
        figures: dict[str, Any] = {
            "loss off": relative(float(own[0]), float(exact[0])),
            "gradient off float32": off,
            "plain's": plain_off,
            "time ÷ plain": own_seconds / plain_seconds,
        }
        if plain_peak:
            figures["memory ÷ plain"] = own_peak["allocated"] / plain_peak["allocated"]
        yield Row(f"{positions} positions, {words} words, in {_called(dtype)}", figures, off <= bound)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def _head_pass(loss_of: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor], dict[str, int], float]:
    """Take a loss and its gradient three times; give both, the peak of memory and the least seconds."""
    found: list[tuple[Tensor, Tensor]] = []

    def once() -> None:
        y = x.detach().clone().requires_grad_(True)
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != SINGLE):
            loss = loss_of(y)
        loss.backward()
        assert y.grad is not None
        found[:] = [(loss.detach(), y.grad)]

    once()
    found.clear()
    with peak_of(x.device) as peak:
        once()
    return found[0], peak, min(seconds_of(once, x.device) for _ in range(3))


def packed(setting: Setting) -> Iterator[Row]:
    """Compare the losses of packed rows, and of rows laid end to end, with those of each row by itself."""
    device = place(setting)
    if device.type == "cuda":
        yield _varlen(device)
    windowed = {"sliding_window": 6}
    cases = [*((architecture, {}) for architecture in ARCHITECTURES), ("mistral", windowed), ("phi3", windowed)]
    for architecture, changes in cases:
        exact: Tensor | None = None
        for dtype in (SINGLE, HALF):
            model = tiny_adapted(setting, architecture, dtype, **changes).eval()
            yield from _packed(f"{architecture}{', a window of 6' if changes else ''} in {_called(dtype)}", model, exact)
            exact = _alone(model)


def _varlen(device: torch.device) -> Row:
    """Try PyTorch's attention over documents out; why it is not taken is told."""
    try:
        error = largest_error(device)
    except Exception as failure:  # another release may have another signature
        return Row("variable-length attention", {"taken": False}, False, f"{type(failure).__name__}: {failure}")
    return Row("variable-length attention", {"largest error": error, "taken": has_varlen(device)}, has_varlen(device))


def _alone(model: PeftModel) -> Tensor:
    return torch.cat([_token_losses(model, make_batch([row])) for row in token_rows(7, longest=40)])


def _packed(what: str, model: PeftModel, exact: Tensor | None) -> Iterator[Row]:
    """Compare in float32 with rows alone; in half precision with what float32 gave."""
    rows = token_rows(7, longest=40)
    alone = _alone(model)
    ways = {
        "packed": [make_batch([end_to_end(rows[:4]), end_to_end(rows[4:6]), rows[6]])],
        "end to end": [make_batch(rows, padding_free=True)],
        "padded": [make_batch(rows)],
    }
    for way, batches in ways.items():
        losses = torch.cat([_token_losses(model, batch) for batch in batches])
        if exact is None:
            off = float((losses - alone).abs().max())
            yield Row(f"{what}, {way}", {"largest difference": off}, off <= _TIGHT_GRADIENT)
        else:
            off, plain_off = _apart(losses, exact), _apart(alone, exact)
            yield Row(f"{what}, {way}", {"off float32": off, "alone": plain_off}, off <= max(_HALF_FLOOR, _ROUNDING * plain_off))


def _token_losses(model: PeftModel, batch: Batch) -> Tensor:
    device = next(model.parameters()).device
    batch = batch.to(device)
    half = next(model.get_base_model().parameters()).dtype
    with torch.no_grad(), SelectedHead(model) as selected, torch.autocast(device.type, dtype=half, enabled=half != SINGLE):
        return nn.functional.cross_entropy(selected.logits(batch).float(), batch.targets, reduction="none")


def not_finite(setting: Setting) -> Iterator[Row]:
    """Plant a NaN in the loss, then an infinity in a gradient: the adapter and the optimizer's state must stay as they were."""
    device = place(setting)
    for dtype in (SINGLE, HALF, torch.float16):
        for planted in ("NaN in the loss", "infinity in a gradient"):
            model = tiny_adapted(setting, "llama", SINGLE if dtype == torch.float16 else dtype)
            stepper = Stepper(model, TrainingSettings(), Precision(device, dtype))
            moved = _stepped(stepper, "")
            before = _state(stepper)
            refused = _stepped(stepper, planted)
            still = all(torch.equal(one, other) for one, other in zip(before, _state(stepper), strict=True))
            after = _stepped(stepper, "")
            halved = dtype != torch.float16 or refused.loss_scale == moved.loss_scale / 2
            passed = refused.skipped and still and halved and not moved.skipped and not after.skipped
            yield Row(
                f"{planted}, in {_called(dtype)}",
                {
                    "skipped": refused.skipped,
                    "adapter and moments as before": still,
                    "loss scale": refused.loss_scale,
                    "loss after": after.loss,
                },
                passed,
            )


def _stepped(stepper: Stepper, planted: str) -> StepOutcome:
    """Take a step, with something planted that is not finite."""
    rows = token_rows(4)
    parameter = next(iter(stepper.parameters.values()))
    hook = parameter.register_hook(lambda gradient: gradient * math.inf) if planted.startswith("inf") else None
    trained = sum(trained_count(row) for row in rows)
    stepper.accumulate(make_batch(rows), math.nan if planted.startswith("NaN") else trained, 0)
    stepper.step(1e-3)
    if hook is not None:
        hook.remove()
    return stepper.post().read()[0]


def _state(stepper: Stepper) -> list[Tensor]:
    """Copy the adapter and its moments."""
    states = (stepper.optimizer.state[own] for own in stepper.parameters.values())
    moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return [tensor.detach().clone() for tensor in (*stepper.parameters.values(), *moments)]
