"""What the tree says an adapter can go on, in families with more than plain Linear layers."""

from __future__ import annotations

import pytest

from lora_studio.models.inspect import tree_of
from lora_studio.models.trial import NO_GRADIENT, NOT_CALLED, READ_PAST, idle_modules
from lora_studio.models.wrappable import MAMBA_FAMILIES, MAMBA_REFUSED
from tests.odd_families import meta_family


@pytest.mark.parametrize(
    ("family", "module", "reason"),
    [
        ("falcon_h1", "model.layers.0.mamba.out_proj", "PEFT refuses every out_proj in the family falcon_h1"),
        ("mamba2", "backbone.layers.0.mixer.out_proj", "PEFT refuses every out_proj in the family mamba2"),
        ("nemotron_h", "model.layers.0.mixer.out_proj", "PEFT refuses every out_proj in the family nemotron_h"),
        ("llama4_text", "model.layers.0.feed_forward.router", "Llama4Router gives several results"),
        ("phimoe", "model.layers.0.mlp.router", "PhimoeTopKRouter gives several results"),
        ("recurrent_gemma", "model.layers.0.temporal_block.rg_lru", "its weights have 3 dimensions and are no experts"),
        ("rwkv", "rwkv.blocks.0.attention", "holds other modules"),
        ("opt", "model.decoder.embed_positions", "OPTLearnedPositionalEmbedding computes something of its own"),
    ],
)
def test_what_peft_cannot_wrap_is_not_targetable_and_says_why(family: str, module: str, reason: str) -> None:
    found = tree_of(meta_family(family)).by_name[module]
    assert not found.targetable
    assert reason in found.reason


@pytest.mark.parametrize("family", ["recurrent_gemma", "rwkv"])
def test_only_experts_are_offered_as_experts(family: str) -> None:
    assert not [module.name for module in tree_of(meta_family(family)).modules if module.kind == "experts"]


def test_a_subclass_that_computes_what_its_base_does_stays_targetable() -> None:
    tree = tree_of(meta_family("falcon"))
    assert tree.by_name["transformer.h.0.mlp.dense_h_to_4h"].class_name == "FalconLinear"
    assert tree.by_name["transformer.h.0.mlp.dense_h_to_4h"].targetable


def test_the_refused_names_are_those_peft_refuses() -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba  # pyright: ignore[reportPrivateUsage]

    class Config:
        model_type = ""

    class Model:
        config = Config()

    for family in (*MAMBA_FAMILIES, "bamba", "jamba", "llama"):
        for name in (*MAMBA_REFUSED, "in_proj", "q_proj"):
            Model.config.model_type = family
            refused = family in MAMBA_FAMILIES and name in MAMBA_REFUSED
            if refused:
                with pytest.raises(ValueError, match="incompatible with Mamba"):
                    _check_lora_target_modules_mamba(LoraConfig(), Model(), name)  # pyright: ignore[reportArgumentType]
            else:
                _check_lora_target_modules_mamba(LoraConfig(), Model(), name)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("family", "idle"),
    [
        ("mamba", {"mixer.dt_proj": READ_PAST}),
        ("jamba", {"mamba.dt_proj": READ_PAST}),
        ("deepseek_v32", {"indexer.wq_b": NO_GRADIENT, "indexer.wk": NO_GRADIENT, "indexer.weights_proj": NO_GRADIENT}),
        (
            "mllama",
            {
                f"{part}_proj": NOT_CALLED
                for part in ("cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o", "mlp.gate", "mlp.up", "mlp.down")
            },
        ),
        ("falcon_h1", {}),
        ("nemotron_h", {}),
        ("qwen3_next", {}),
        ("gpt_oss", {}),
        ("lfm2", {}),
        ("qwen3_5", {}),
    ],
)
def test_where_an_adapter_would_learn_nothing_is_found_by_trying(family: str, idle: dict[str, str]) -> None:
    model = meta_family(family)
    found = idle_modules(model, [module.name for module in tree_of(model).targetable])
    assert {".".join(name.split(".")[-2:]): reason for name, reason in found.items()} == idle


def test_text_does_not_pass_through_the_eyes_of_a_model_with_images() -> None:
    model = meta_family("gemma3")
    names = [module.name for module in tree_of(model).targetable]
    found = idle_modules(model, names)
    assert set(found) == {name for name in names if "vision_tower" in name}
    assert set(found.values()) == {NOT_CALLED}


def test_a_model_that_cannot_be_tried_says_nothing() -> None:
    import torch

    class Stubborn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

        def forward(self, **_given: object) -> None:
            raise RuntimeError("wants numbers")

    assert idle_modules(Stubborn(), ["inner"]) == {}  # pyright: ignore[reportArgumentType]
