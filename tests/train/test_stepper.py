from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lora_studio.core.errors import InputError
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.token_rows import TokenRow
from lora_studio.kernels.batches import make_batch, trained_count
from lora_studio.train.faults import TooLargeError, is_out_of_memory
from lora_studio.train.precision import Precision
from lora_studio.train.stepper import StepOutcome, Stepper, micro_batch_seed
from tests.train.helpers import adapted_model, token_rows

CPU = Precision(torch.device("cpu"), torch.float32)


def take(stepper: Stepper, rows: list[TokenRow], size: int, rate: float = 1e-2) -> StepOutcome:
    """One step over `rows` in micro-batches of `size`."""
    trained = sum(trained_count(row) for row in rows)
    for start in range(0, len(rows), size):
        stepper.accumulate(make_batch(rows[start : start + size]), trained, micro_batch_seed(0, 0, start))
    stepper.step(rate)
    return stepper.post().read()[-1]


def weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("split", [1, 4])
def test_splitting_a_step_changes_nothing_but_rounding(tiny_model: Callable[[str], Path], split: int) -> None:
    whole = Stepper(adapted_model(tiny_model("llama")), TrainingSettings(), CPU)
    cut = Stepper(adapted_model(tiny_model("llama")), TrainingSettings(), CPU)
    for step in range(20):
        rows = token_rows(8, seed=step)
        one, other = take(whole, rows, 8), take(cut, rows, split)
        tolerance = 1e-6 if step == 0 else 1e-4
        assert other.loss == pytest.approx(one.loss, abs=tolerance)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4 if step == 0 else 1e-2)


def test_the_loss_is_the_mean_over_trained_tokens_not_over_rows(tiny_model: Callable[[str], Path]) -> None:
    stepper = Stepper(adapted_model(tiny_model("llama")), TrainingSettings(), CPU)
    rows = token_rows(6)
    sums = [take(stepper, [row], 1, rate=0.0).loss * trained_count(row) for row in rows]
    assert take(stepper, rows, 2, rate=0.0).loss == pytest.approx(sum(sums) / sum(map(trained_count, rows)), rel=1e-5)


def test_the_adapter_moves_and_the_base_does_not(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"))
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters() if not parameter.requires_grad}
    before = weights(model)
    take(Stepper(model, TrainingSettings(), CPU), token_rows(4), 2)
    assert all(not torch.equal(before[name], now) for name, now in weights(model).items())
    assert all(torch.equal(frozen[name], parameter) for name, parameter in model.named_parameters() if name in frozen)


def test_gradients_are_clipped_after_their_norm_is_told(tiny_model: Callable[[str], Path]) -> None:
    def first_moment(limit: float) -> tuple[float, float]:
        stepper = Stepper(adapted_model(tiny_model("llama")), TrainingSettings(max_grad_norm=limit), CPU)
        outcome = take(stepper, token_rows(4), 4)
        moments = [stepper.optimizer.state[parameter]["exp_avg"] for parameter in stepper.parameters.values()]
        return outcome.grad_norm, float(torch.nn.utils.get_total_norm(moments)) * 10  # exp_avg is 0.1 of the first gradient

    free_norm, free = first_moment(0.0)
    clipped_norm, clipped = first_moment(free_norm / 4)
    assert clipped_norm == free_norm
    assert free == pytest.approx(free_norm, rel=1e-4)
    assert clipped == pytest.approx(free_norm / 4, rel=1e-3)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_never_reach_the_adapter(tiny_model: Callable[[str], Path], where: str, value: float) -> None:
    model = adapted_model(tiny_model("llama"))
    stepper = Stepper(model, TrainingSettings(), CPU)
    take(stepper, token_rows(4), 2)
    before = weights(model)
    moments = {name: stepper.optimizer.state[parameter]["exp_avg"].clone() for name, parameter in stepper.parameters.items()}
    if where == "loss":
        handle = model.get_output_embeddings().register_forward_pre_hook(lambda _head, inputs: (inputs[0] * value,))
    else:
        handle = next(iter(stepper.parameters.values())).register_hook(lambda gradient: gradient * value)
    outcome = take(stepper, token_rows(4), 2)
    handle.remove()

    assert outcome.skipped
    assert all(torch.equal(before[name], now) for name, now in weights(model).items())
    assert all(torch.equal(moments[name], stepper.optimizer.state[parameter]["exp_avg"]) for name, parameter in stepper.parameters.items())
    assert not take(stepper, token_rows(4), 2).skipped


def test_float16_scales_the_loss_and_survives_overflow(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"))
    stepper = Stepper(model, TrainingSettings(), Precision(torch.device("cpu"), torch.float16))
    assert not take(stepper, token_rows(4), 2).skipped
    assert stepper.loss_scale is not None
    stepper.loss_scale.load_state_dict({"scale": 1e30, "_growth_tracker": 7})
    before = weights(model)
    outcome = take(stepper, token_rows(4), 2)
    assert outcome.skipped
    assert outcome.loss_scale == pytest.approx(5e29)
    assert stepper.loss_scale.state_dict() == {"scale": pytest.approx(5e29), "_growth_tracker": 0}
    assert all(torch.equal(before[name], now) for name, now in weights(model).items())


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_float32(tiny_model: Callable[[str], Path], compute: torch.dtype) -> None:
    exact = take(Stepper(adapted_model(tiny_model("llama")), TrainingSettings(), CPU), token_rows(4), 2)
    precision = Precision(torch.device("cpu"), compute)
    model = adapted_model(tiny_model("llama"), dtype=torch.bfloat16 if compute == torch.bfloat16 else torch.float32)
    with precision.fused_inputs(model):
        rough = take(Stepper(model, TrainingSettings(), precision), token_rows(4), 2)
    assert rough.loss == pytest.approx(exact.loss, rel=2e-2)
    assert rough.grad_norm == pytest.approx(exact.grad_norm, rel=0.1)


def test_sparing_the_input_cast_leaves_gradients_bitwise_equal(tiny_model: Callable[[str], Path]) -> None:
    precision = Precision(torch.device("cpu"), torch.bfloat16)

    def gradients(fused: bool) -> list[torch.Tensor]:
        model = adapted_model(tiny_model("llama"), dtype=torch.bfloat16)
        stepper = Stepper(model, TrainingSettings(), precision)
        batch = make_batch(token_rows(4))
        if fused:
            with precision.fused_inputs(model):
                stepper.accumulate(batch, len(batch.targets), 0)
        else:
            stepper.accumulate(batch, len(batch.targets), 0)
        return [parameter.grad for parameter in stepper.parameters.values() if parameter.grad is not None]

    assert all(torch.equal(one, other) for one, other in zip(gradients(True), gradients(False), strict=True))


def test_want_of_memory_names_the_batch_and_lets_go_of_all_that_was_made(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama"))
    stepper = Stepper(model, TrainingSettings(per_device_train_batch_size=4), CPU)
    made: list[weakref.ref[torch.Tensor]] = []

    def allocate_too_much(_layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        made.append(weakref.ref(inputs[0]))
        torch.empty(1 << 50)

    layers = model.get_base_model().model.layers
    layers[0].register_forward_hook(lambda _layer, _inputs, output: made.append(weakref.ref(output)))
    layers[1].mlp.register_forward_pre_hook(allocate_too_much)
    with pytest.raises(TooLargeError) as caught:
        take(stepper, token_rows(4), 4)
    assert (caught.value.rows, caught.value.width) == (4, max(row.input_ids.size for row in token_rows(4)))
    assert len(made) == 2
    assert [reference() for reference in made] == [None, None]
    assert all(parameter.grad is None for parameter in stepper.parameters.values())


def test_a_model_with_nothing_to_train_is_refused(tiny_model: Callable[[str], Path]) -> None:
    model = adapted_model(tiny_model("llama")).requires_grad_(False)
    with pytest.raises(InputError, match="Nothing would be trained"):
        Stepper(model, TrainingSettings(), CPU)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_want_of_memory_is_told_in_every_librarys_words(error: Exception, wanted: bool) -> None:
    assert is_out_of_memory(error) == wanted
