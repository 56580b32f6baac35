"""LoRA layers computed fused against PEFT's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lora_studio.adapters.inject import inject
from lora_studio.core.settings import AdapterSettings
from lora_studio.kernels import fused_lora
from lora_studio.kernels.batches import make_batch
from lora_studio.kernels.fused_lora import fused_lora_forward, fused_lora_layers
from lora_studio.kernels.head import SelectedHead
from tests.tiny import ARCHITECTURES
from tests.train.helpers import targets, token_rows

TinyModel = Callable[[str], Path]
Found = tuple[float, dict[str, Tensor]]


def adapted(folder: Path, architecture: str, dtype: torch.dtype = torch.float32, **fields: object) -> PeftModel:
    """A tiny model in training mode with an adapter whose B is not zero."""
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": targets(architecture), **fields}
    model = inject(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).requires_grad_(False), AdapterSettings(**settings), seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model.train()


def lean_layers(model: nn.Module) -> int:
    return sum(isinstance(module, LoraLinear) and type(module) is not LoraLinear for module in model.modules())


def passes(model: PeftModel, fused: bool, autocast: torch.dtype | None = None) -> Found:
    """The loss of some 150 tokens, and the adapter's gradients."""
    batch = make_batch(token_rows(10))
    torch.manual_seed(0)  # gpt2 has dropout of its own
    with fused_lora_layers(model) if fused else contextlib.nullcontext(), SelectedHead(model) as head:
        assert bool(lean_layers(model)) == fused
        with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            loss = head.loss_sum(batch)
        loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), gradients


def distance(one: Found, other: Found) -> float:
    """How far one's gradients are from the other's, by norm and relative to them."""
    assert one[1].keys() == other[1].keys()
    apart = sum(float((one[1][name].double() - other[1][name].double()).square().sum()) for name in other[1])
    return (apart / sum(float(gradient.double().square().sum()) for gradient in other[1].values())) ** 0.5


@pytest.fixture(params=[False, True], ids=["", "other-orders"])
def other_orders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product in the order that the shapes at hand would not choose."""
    if request.param:
        monkeypatch.setattr(fused_lora, "merges", lambda tokens, features_in, features_out, dtype: False)
        monkeypatch.setattr(fused_lora, "keeps_a_output", lambda rank, features_in: False)
        monkeypatch.setattr(fused_lora, "multiplies_whole", lambda tokens, features_in, features_out, rank: True)


@pytest.mark.usefixtures("other_orders")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_pefts(tiny_model: TinyModel, architecture: str) -> None:
    model = adapted(tiny_model(architecture), architecture)
    peft, own = passes(model, fused=False), passes(model, fused=True)
    assert own[0] == pytest.approx(peft[0], rel=1e-6)
    assert distance(own, peft) < 1e-6


@pytest.mark.parametrize(
    "fields",
    [
        {"use_rslora": True},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 9}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
        {"r": 40},
    ],
)
def test_ranks_and_scales_of_a_layers_own_are_heeded(tiny_model: TinyModel, fields: dict[str, object]) -> None:
    model = adapted(tiny_model("llama"), "llama", **fields)
    assert distance(passes(model, fused=True), passes(model, fused=False)) < 1e-6


@pytest.mark.usefixtures("other_orders")
@pytest.mark.parametrize(
    ("base", "autocast"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)]
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_half_precision_is_as_near_to_float32_as_pefts(
    tiny_model: TinyModel,
    architecture: str,
    base: torch.dtype,
    autocast: torch.dtype,
) -> None:
    model = adapted(tiny_model(architecture), architecture, base)
    peft, own = passes(model, fused=False, autocast=autocast), passes(model, fused=True, autocast=autocast)
    exact = passes(adapted(tiny_model(architecture), architecture), fused=False)
    assert all(gradient.dtype == torch.float32 for gradient in own[1].values())
    assert distance(own, exact) < 1.25 * distance(peft, exact)


def test_half_weights_need_no_autocast(tiny_model: TinyModel) -> None:
    model = adapted(tiny_model("llama"), "llama", torch.bfloat16)
    exact = passes(adapted(tiny_model("llama"), "llama"), fused=False)
    assert distance(passes(model, fused=True), exact) < 1.25 * distance(passes(model, fused=False), exact)


def test_an_adapter_in_half_precision_gets_gradients_in_it(tiny_model: TinyModel) -> None:
    model = adapted(tiny_model("llama"), "llama", dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    peft, own = passes(model, fused=False, autocast=torch.bfloat16), passes(model, fused=True, autocast=torch.bfloat16)
    assert {gradient.dtype for gradient in own[1].values()} == {torch.bfloat16}
    assert distance(own, peft) < 3e-2


@pytest.mark.parametrize("leading", [(5,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("wants_input", [False, True])
def test_any_leading_shape_will_do(leading: tuple[int, ...], wants_input: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    x = torch.randn(*leading, 8, dtype=torch.float64, requires_grad=wants_input)
    a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 8), (6, 3)))

    def plain(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return nn.functional.linear(x, weight, bias) + 0.7 * (x @ a.t() @ b.t())

    def own(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return fused_lora_forward(x, weight, bias, a, b, 0.7, torch.float64)

    torch.testing.assert_close(own(x, a, b), plain(x, a, b))
    assert torch.autograd.gradcheck(own, (x, a, b))


def test_checkpointed_layers_give_the_same_gradients(tiny_model: TinyModel) -> None:
    model = adapted(tiny_model("llama"), "llama")
    plain = passes(model, fused=True)
    base: Any = model.get_base_model()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert distance(passes(model, fused=True), plain) == 0


def test_evaluating_and_sampling_agree_with_peft(tiny_model: TinyModel) -> None:
    model = adapted(tiny_model("llama"), "llama").eval()
    ids = torch.randint(5, 300, (4, 20))

    @torch.no_grad()
    def answers(fused: bool) -> tuple[Tensor, Tensor]:
        with fused_lora_layers(model) if fused else contextlib.nullcontext():
            return model(input_ids=ids).logits, model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)

    (logits, tokens), (own_logits, own_tokens) = answers(fused=False), answers(fused=True)
    torch.testing.assert_close(own_logits, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(own_tokens, tokens)


def test_a_switched_off_adapter_leaves_the_base_alone(tiny_model: TinyModel) -> None:
    model = adapted(tiny_model("llama"), "llama").eval()
    ids = torch.randint(5, 300, (4, 20))
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=ids).logits
    with torch.no_grad(), fused_lora_layers(model), model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, base)


@pytest.mark.parametrize("inside", ["base_layer", "lora_A.default", "lora_B.default"])
def test_hooks_within_a_layer_are_called(tiny_model: TinyModel, inside: str) -> None:
    model = adapted(tiny_model("llama"), "llama")
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    called: list[str] = []
    layer.register_forward_hook(lambda *_arguments: called.append("layer"))
    layer.get_submodule(inside).register_forward_pre_hook(lambda *_arguments: called.append(inside))
    passes(model, fused=True)
    assert called[-2:] == [inside, "layer"]  # those before are of the few tokens the head is tried out on


@pytest.mark.parametrize("fields", [{"lora_dropout": 0.1}, {"use_dora": True}, {"bias": "lora_only", "target_modules": ["c_attn"]}])
def test_layers_that_do_more_stay_pefts(tiny_model: TinyModel, fields: dict[str, object]) -> None:
    architecture = "gpt2" if "bias" in fields else "llama"
    model = adapted(tiny_model(architecture), architecture, **fields)
    with fused_lora_layers(model):
        assert lean_layers(model) == 0


def test_the_model_is_left_as_it_was(tiny_model: TinyModel) -> None:
    model = adapted(tiny_model("llama"), "llama")
    before = {name: (type(module), set(vars(module))) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with contextlib.suppress(KeyError), fused_lora_layers(model):
        assert lean_layers(model) == 14
        raise KeyError
    assert {name: (type(module), set(vars(module))) for name, module in model.named_modules()} == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_less_is_kept_for_the_backward_pass_than_pefts_layer_keeps(tiny_model: TinyModel) -> None:
    model = adapted(tiny_model("llama"), "llama", r=16)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept(fused: bool, autocast: torch.dtype | None) -> int:
        found: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            passes(model, fused, autocast)
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    for autocast in (None, torch.bfloat16):
        assert kept(True, autocast) < kept(False, autocast)


def test_what_a_lean_layer_gives_may_be_changed_in_place() -> None:
    """Llama 4 adds its experts to the shared one's output in place."""
    numbers = torch.Generator().manual_seed(0)
    x, weight, a, b = (torch.randn(*shape, generator=numbers) for shape in ((2, 64, 8), (6, 8), (2, 8), (6, 2)))
    a, b = a.requires_grad_(True), b.requires_grad_(True)
    found = fused_lora_forward(x, weight, None, a, b, 2.0, torch.float32)
    found.add_(1.0)
    (found * found).sum().backward()
    wanted = x @ weight.t() + 2.0 * x @ a.detach().t() @ b.detach().t() + 1.0
    torch.testing.assert_close(b.grad, (2 * 2.0 * wanted.flatten(0, 1)).t() @ (x @ a.detach().t()).flatten(0, 1), rtol=1e-4, atol=1e-3)
