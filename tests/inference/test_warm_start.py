"""Adapters that a run cannot begin from are found by their headers, and the finding names the adapter and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import resolve
from lora_studio.inference.warm_start import NewAdapter, warm_start_findings
from lora_studio.models.inspect import inspect_model
from tests.export.handmade import tensors_of, write_adapter
from tests.tiny import VOCABULARY, save_tiny_model

PREFIX = "base_model.model."
Q_PROJ = f"{PREFIX}model.layers.0.self_attn.q_proj"
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def tree(tiny_model: Callable[[str], Path]) -> ModuleTree:
    return inspect_model(tiny_model("llama"))


def found(tree: ModuleTree, source: Path, base: Path | None = None, **settings: Any) -> list[Finding]:
    adapter = AdapterSettings(**{"r": 4, "target_modules": ("q_proj", "v_proj"), "warm_start": str(source), **settings})
    return warm_start_findings(NewAdapter(adapter, tree, resolve(adapter, tree), base))


def with_tensors(shapes: Shapes) -> dict[str, np.ndarray]:
    return {**tensors_of(), **{f"{PREFIX}{name}": np.full(shape, 0.01, dtype=np.float32) for name, shape in shapes.items()}}


def test_an_adapter_of_the_same_kind_is_found_to_fit(tree: ModuleTree, tmp_path: Path) -> None:
    assert found(tree, write_adapter(tmp_path)) == []
    assert found(tree, tmp_path, r=9, target_modules="all-linear") == []


@pytest.mark.parametrize(
    ("code", "said", "hint", "field", "tensors", "config"),
    [
        ("other_base", "model.layers.2.self_attn.q_proj", "of this base model", "warm_start", tensors_of(layers=3), {}),
        ("other_sizes", "from 64 to 32", "of this base model", "warm_start", tensors_of(q_proj=(32, 64)), {}),
        ("other_sizes", "from 32 to 48", "of this base model", "warm_start", tensors_of(v_proj=(48, 32)), {}),
        ("rank", "rank 16 on model.layers.0.self_attn.q_proj", "Set r to 16", "r", tensors_of(16), {"r": 16}),
        ("not_targeted", "o_proj", "Tick them", "warm_start", tensors_of(o_proj=(32, 32)), {}),
        ("unreadable", "LOHA", "LoRA", "warm_start", None, {"peft_type": "LOHA"}),
        ("unreadable", "SEQ_CLS", "CAUSAL_LM", "warm_start", None, {"task_type": "SEQ_CLS"}),
        ("unreadable", "alora_invocation_tokens", "plain LoRA", "warm_start", None, {"alora_invocation_tokens": [5, 6]}),
        ("unreadable", "layer_replication", "of this base model", "warm_start", None, {"layer_replication": [[0, 2], [1, 2]]}),
        ("base_changed", "pissa", "plain LoRA", "warm_start", None, {"init_lora_weights": "pissa"}),
        ("new_tokens", "392 in place of the base's 384", "--as merged", "warm_start", {"model.embed_tokens.weight": (392, 32)}, {}),
        ("token_rows", "embed_tokens", "merged", "warm_start", {"model.embed_tokens.token_adapter.trainable_tokens_delta": (2, 32)}, {}),
        ("saved", "lm_head", "modules_to_save", "warm_start", {"lm_head.weight": (VOCABULARY, 32)}, {"modules_to_save": ["lm_head"]}),
        ("dora", "use_dora true", "Set use_dora to true", "use_dora", None, {"use_dora": True}),
        ("lora_bias", "lora_bias", "merged", "warm_start", {"model.layers.0.self_attn.q_proj.lora_B.bias": (32,)}, {"lora_bias": True}),
        ("bias", "q_proj.bias", "Set bias", "bias", {"model.layers.0.self_attn.q_proj.base_layer.bias": (32,)}, {"bias": "lora_only"}),
    ],
)
def test_what_does_not_fit_is_said_with_the_way_out(
    tree: ModuleTree,
    tmp_path: Path,
    code: str,
    said: str,
    hint: str,
    field: str,
    tensors: Any,
    config: dict[str, Any],
) -> None:
    given = with_tensors(tensors) if tensors and isinstance(next(iter(tensors.values())), tuple) else tensors
    config = {"trainable_token_indices": {"embed_tokens": [5, 6]}, **config} if code == "token_rows" else config
    (finding,) = found(tree, write_adapter(tmp_path / "mine", given, **config))
    assert (finding.level, finding.code, finding.field) == ("error", f"warm_start_{code}", f"adapter.{field}")
    assert said in finding.message
    assert str(tmp_path / "mine") in finding.message
    assert hint in finding.hint


def test_dora_in_the_run_alone_is_no_less_of_another_kind(tree: ModuleTree, tmp_path: Path) -> None:
    (finding,) = found(tree, write_adapter(tmp_path), use_dora=True)
    assert (finding.code, finding.hint) == ("warm_start_dora", "Set use_dora to false.")


def test_a_folder_without_an_adapter_is_said_to_have_none(tree: ModuleTree, tmp_path: Path) -> None:
    (finding,) = found(tree, tmp_path)
    assert (finding.level, finding.field) == ("error", "adapter.warm_start")
    assert f"{tmp_path} is no run and holds no PEFT adapter" in finding.message


@pytest.mark.parametrize("hashed", [True, False])
def test_a_run_without_an_adapter_yet_is_said_to_have_none(tree: ModuleTree, tmp_path: Path, hashed: bool) -> None:
    write_config(tmp_path / "run" / "run.yaml", RunConfig())
    adapter = AdapterSettings(warm_start=str(tmp_path / "run"))
    (finding,) = warm_start_findings(NewAdapter(adapter, tree, resolve(adapter, tree)), hashed=hashed)
    assert finding.message == f"The run {tmp_path / 'run'} has no adapter yet."


def test_the_newest_checkpoint_stands_for_a_run_that_is_not_finished(tree: ModuleTree, tmp_path: Path) -> None:
    write_config(tmp_path / "run" / "run.yaml", RunConfig())
    for step, rank in ((2, 4), (10, 16)):
        write_adapter(tmp_path / "run" / "checkpoints" / f"step-{step:06}", tensors_of(rank), r=rank)
    adapter = AdapterSettings(r=4, warm_start=str(tmp_path / "run"))
    (finding,) = warm_start_findings(NewAdapter(adapter, tree, resolve(adapter, tree)), hashed=False)
    assert "has rank 16" in finding.message


def test_weights_saved_as_they_were_from_beneath_an_adapter_are_no_obstacle(tree: ModuleTree, tmp_path: Path) -> None:
    tensors = tensors_of() | with_tensors(
        {
            "model.embed_tokens.base_layer.weight": (VOCABULARY, 32),
            "model.embed_tokens.lora_embedding_A": (4, VOCABULARY),
            "model.embed_tokens.lora_embedding_B": (32, 4),
        }
    )
    source = write_adapter(tmp_path, tensors, target_modules=["q_proj", "v_proj", "embed_tokens"])
    assert found(tree, source, target_modules=("q_proj", "v_proj", "embed_tokens")) == []


def test_more_tokens_in_its_tokenizer_alone_are_warned_of(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = save_tiny_model(tmp_path / "base", vocab_size=VOCABULARY + 8)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "mine")
    (finding,) = found(inspect_model(base), write_adapter(tmp_path / "mine"), base)
    assert (finding.level, finding.code) == ("warning", "warm_start_tokens")
