"""Counts from names and shapes; `tests/lora` holds them against PEFT's own."""

from __future__ import annotations

import pytest

from lora_studio.core.adapter_file import adapter_bytes
from lora_studio.core.counts import all_parameters, count_by_module, trainable_parameters
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import resolve
from tests.core.trees import transformer, tree_from


def adapter(**fields: object) -> AdapterSettings:
    return AdapterSettings.model_validate(fields)


@pytest.mark.parametrize(("fields", "each"), [({"r": 2}, 24), ({"r": 3}, 36), ({"r": 2, "use_dora": True}, 32)])
def test_a_module_of_4_by_8_counts_r_times_12_and_doras_8(fields: dict[str, object], each: int) -> None:
    tree = transformer(2)
    settings = adapter(target_modules=["q_proj"], **fields)
    counts = count_by_module(settings, tree, resolve(settings, tree))
    assert counts == {f"model.layers.{layer}.self_attn.q_proj": each for layer in (0, 1)}


def test_each_fused_expert_has_an_a_and_b_of_its_own() -> None:
    tree = tree_from(["m.h.0.q"], parameters=["m.h.0.experts.down_proj"])
    settings = adapter(r=2, target_modules=[], target_parameters=["experts.down_proj"])
    assert trainable_parameters(settings, tree, resolve(settings, tree)) == 2 * 2 * (4 + 8)


def test_a_module_saved_in_full_counts_once_as_trained_and_once_more_in_all() -> None:
    tree = transformer(2)
    settings = adapter(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    resolution = resolve(settings, tree).check()
    assert trainable_parameters(settings, tree, resolution) == 2 * 24 + 32
    assert all_parameters(settings, tree, resolution) == tree.all_parameters + 2 * 24 + 32


def test_bfloat16_adapters_take_half_the_tensor_bytes() -> None:
    tree = transformer(40)
    full, half = adapter(r=64, target_modules="all-linear"), adapter(r=64, target_modules="all-linear", dtype="bfloat16")
    parameters = trainable_parameters(full, tree, resolve(full, tree))
    saved = adapter_bytes(full, tree, resolve(full, tree)) - adapter_bytes(half, tree, resolve(half, tree))
    assert saved == pytest.approx(2 * parameters, rel=0.01)
