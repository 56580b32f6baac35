"""Base models held in 4 and 8 bits: which weights, what they are unpacked to, and where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lora_studio.core.errors import InputError
from lora_studio.models.held_weights import quantized_modules, saved_modules_finding, weight_bytes
from lora_studio.models.inspect import inspect_model, tree_of
from lora_studio.models.load import load_model
from lora_studio.models.quantization import quantization_finding
from lora_studio.models.quantized import Frozen4bit, Frozen8bit, as_held
from tests.models.quantized import held, unpacked
from tests.tiny import ARCHITECTURES, save_tiny_model

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")
KINDS = {"nf4": Frozen4bit, "int8": Frozen8bit}
QUANTIZED = pytest.mark.parametrize("quantization", list(KINDS))


def bytes_held(model: nn.Module) -> int:
    size = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
    for layer in held(model).values():
        state = getattr(layer.weight, "quant_state", None)
        size += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0) if state else layer.weight.SCB.nbytes
    return size


@QUANTIZED
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_quantized_and_what_it_weighs_is_known_before_it_is_loaded(
    tiny_model: TinyModel,
    architecture: str,
    quantization: str,
) -> None:
    folder = tiny_model(architecture)
    tree = inspect_model(folder)
    model = load_model(folder, torch.bfloat16, CPU, quantization)
    assert set(held(model)) == quantized_modules(tree, quantization)
    assert {type(layer) for layer in held(model).values()} == {KINDS[quantization]}
    assert bytes_held(model) == weight_bytes(tree, quantization, 2)
    assert bytes_held(model) < weight_bytes(tree, "none", 2)
    assert {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} == {torch.bfloat16}
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16


@QUANTIZED
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe"])
def test_the_tree_and_its_counts_are_those_of_the_unquantized_model(tiny_model: TinyModel, architecture: str, quantization: str) -> None:
    tree = inspect_model(tiny_model(architecture))
    found = tree_of(load_model(tiny_model(architecture), torch.float32, CPU, quantization))
    assert (found.all_parameters, found.tied_embeddings, found.output_module) == (
        tree.all_parameters,
        tree.tied_embeddings,
        tree.output_module,
    )
    for one, other in zip(found.modules, tree.modules, strict=True):
        assert (one.name, one.parameters, one.in_features, one.out_features, one.targetable) == (
            other.name,
            other.parameters,
            other.in_features,
            other.out_features,
            other.targetable,
        )


@QUANTIZED
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_gives_the_product_with_its_unpacked_weight_and_the_gradient_of_it(
    tmp_path: Path,
    quantization: str,
    training: bool,
    autocast: bool,
) -> None:
    folder = save_tiny_model(tmp_path / "model", "llama", attention_bias=True)
    model = load_model(folder, torch.float32, CPU, quantization).train(training)
    layer = held(model)["model.layers.1.self_attn.q_proj"]
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 32, requires_grad=True)
    with torch.no_grad():
        layer(x)  # an evaluation before must change nothing
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        product = layer(x)
        wanted = nn.functional.linear(x, unpacked(layer), layer.bias)
    assert product.dtype == wanted.dtype
    assert torch.allclose(product, wanted, atol=5e-2 if autocast else 1e-5)
    layer.bias.requires_grad_(True)
    (found, bias) = torch.autograd.grad(layer(x).sin().sum(), (x, layer.bias))
    plain = nn.functional.linear(x, unpacked(layer), layer.bias)
    (gradient, of_bias) = torch.autograd.grad(plain.sin().sum(), (x, layer.bias))
    assert torch.allclose(found, gradient, atol=1e-4)
    assert torch.allclose(bias, of_bias, atol=1e-4)


@QUANTIZED
def test_a_layer_keeps_none_of_its_input_for_the_backward_pass(tiny_model: TinyModel, quantization: str) -> None:
    layer = held(load_model(tiny_model("llama"), torch.float32, CPU, quantization))["model.layers.0.mlp.down_proj"]
    kept: list[Tensor] = []
    x = torch.randn(64, layer.in_features, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        product = layer(x)
    assert all(tensor.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() for tensor in kept)
    assert not [value for value in vars(product.grad_fn).values() if isinstance(value, Tensor) and value.shape == x.shape]


@QUANTIZED
def test_without_bitsandbytes_the_way_to_it_is_told(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    monkeypatch.setattr("lora_studio.models.quantization.find_spec", lambda _name: None)
    with pytest.raises(InputError, match="bitsandbytes, which is not installed") as caught:
        load_model(tiny_model("llama"), torch.float32, CPU, quantization)
    assert caught.value.field == "model.quantization"
    assert "pip install" in caught.value.hint


def test_a_device_that_cannot_is_refused_and_none_needs_nothing() -> None:
    found = quantization_finding("nf4", "mps")
    assert found is not None
    assert (found.level, found.field) == ("error", "model.quantization")
    assert quantization_finding("none", "mps") is None
    assert quantization_finding("int8", "cpu") is None


def test_a_quantized_module_cannot_be_trained_in_full_and_the_head_can(tiny_model: TinyModel) -> None:
    tree = inspect_model(tiny_model("llama"))
    found = saved_modules_finding("nf4", tree, ("model.layers.0.mlp",))
    assert found is not None
    assert "model.layers.0.mlp.down_proj cannot be trained in full" in found.message
    assert saved_modules_finding("nf4", tree, ("lm_head", "model.norm")) is None
    assert saved_modules_finding("none", tree, ("model.layers.0.mlp",)) is None


@pytest.mark.parametrize("columns", [32, 96, 80, 128])
def test_four_bits_cost_a_tenth_of_a_weight_whatever_its_width(columns: int) -> None:
    """Rows that are no whole blocks of 64 included, where bitsandbytes on a processor takes the wrong scales."""
    weight = torch.randn(64, columns, generator=torch.Generator().manual_seed(0))
    assert float((as_held(weight, "nf4") - weight).norm() / weight.norm()) < 0.11
