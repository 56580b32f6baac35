"""GGUF files run in llama.cpp answer as base + adapter, are the converter's own byte for byte, and are refused where they cannot be right.

The tiny models carry the starter's tokenizer: llama.cpp's converter knows tokenizers by the hash of what they do.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import Phase
from lora_studio.core.paths import HOME_VARIABLE
from lora_studio.export.gguf import export as gguf_export
from lora_studio.export.gguf import headers, llama_cpp
from lora_studio.export.gguf.adapter import gguf_adapter_fault, write_gguf_adapter
from lora_studio.export.gguf.check import check_gguf_tensors
from lora_studio.export.gguf.llama_check import compare_in_llama, llama_available
from lora_studio.export.gguf.model import write_gguf_model
from lora_studio.export.verify.comparison import LlamaComparison
from lora_studio.models.gguf_header import read_gguf
from lora_studio.models.inspect import inspect_model
from lora_studio.models.load import load_tokenizer
from tests.export.adapters import make_adapter, run_export, targets_of, with_adapter
from tests.export.gguf.models import outcome, save_gguf_base

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not llama_available(), reason="xllamacpp is not installed"),
]
ARCHITECTURES = ("llama", "qwen3", "gemma3", "gpt2")
ROW = [5, 900, 12000, 33, 7, 250, 18, 40000, 11, 12, 13, 14, 15, 900, 901, 902]
VARIANTS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"use_rslora": True}, "patterns": {}}
Bases = Callable[[str], Path]


@pytest.fixture(scope="session")
def gguf_bases(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Tiny models with the starter's tokenizer; gemma3 with the six layers after which llama.cpp expects one of full attention."""
    made: dict[str, Path] = {}

    def base(architecture: str) -> Path:
        if architecture not in made:
            changes: dict[str, Any] = {}
            if architecture == "gemma3":
                layers = ["sliding_attention"] * 5 + ["full_attention"]
                changes = {"num_hidden_layers": 6, "layer_types": layers, "query_pre_attn_scalar": 8}  # llama.cpp takes the head's size
            made[architecture] = save_gguf_base(tmp_path_factory.mktemp("gguf") / architecture, starter_folder, architecture, **changes)
        return made[architecture]

    return base


@pytest.fixture(scope="session")
def base_files(converter_folder: Path, gguf_bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """The bases as GGUF in float32, each converted once."""
    made: dict[str, Path] = {}

    def file(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp("files") / f"{architecture}.gguf"
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(HOME_VARIABLE, str(converter_folder.parents[2]))
                outcome(write_gguf_model(TaskContext(), gguf_bases(architecture), made[architecture], "f32"))
        return made[architecture]

    return file


def settings_of(architecture: str, variant: str) -> dict[str, Any]:
    targets = targets_of(architecture)
    listed: list[str] = targets["target_modules"]
    patterns = {"rank_pattern": {listed[0]: 2}, "alpha_pattern": {listed[-1]: 32}} if variant == "patterns" else {}
    return {**targets, **VARIANTS[variant], **patterns}


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.float().eval()(input_ids=torch.tensor([ROW])).logits[0]


def in_llama(model: Path, adapter: Path | None, expected: torch.Tensor, base: Path) -> LlamaComparison:
    return outcome(compare_in_llama(TaskContext(), model, adapter, [ROW], [expected], load_tokenizer(base)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gguf_adapter_in_llama_cpp_answers_as_base_and_adapter(
    architecture: str, variant: str, gguf_bases: Bases, base_files: Bases, tmp_path: Path
) -> None:
    base = gguf_bases(architecture)
    folder = make_adapter(base, tmp_path / "adapter", **settings_of(architecture, variant))
    tree = inspect_model(base)
    adapter = SavedAdapter.open(folder, tree)
    write_gguf_adapter(adapter, base, tree, tmp_path / "adapter.gguf")
    expected = logits(with_adapter(base, folder))
    found = in_llama(base_files(architecture), tmp_path / "adapter.gguf", expected, base)
    assert found.largest <= 0.01
    assert found.agreement == 1.0
    assert in_llama(base_files(architecture), None, expected, base).largest > 0.1  # the adapter does something
    assert gguf_adapter_fault(adapter, base, tree, tmp_path / "adapter.gguf") == (len(adapter.pairs), "")


@pytest.mark.parametrize(
    ("architecture", "variant"), [("llama", "rslora"), ("qwen3", "patterns"), ("gemma3", "rslora"), ("gpt2", "patterns")]
)
@pytest.mark.usefixtures("converter")
def test_a_merged_gguf_in_llama_cpp_answers_as_base_and_adapter(architecture: str, variant: str, gguf_bases: Bases, tmp_path: Path) -> None:
    base = gguf_bases(architecture)
    folder = make_adapter(base, tmp_path / "adapter", **settings_of(architecture, variant))
    told = run_export(source=str(folder), kind="gguf", to=str(tmp_path / "made"), outtype="f32")
    certificate = told["certificate"]
    assert (certificate["verdict"], certificate["grade"]) == ("exact", "logits")
    assert certificate["loaded_by"].startswith("llama.cpp")
    assert certificate["max_abs_logit_difference"] <= 0.01
    (file,) = (tmp_path / "made").glob("*.gguf")
    assert in_llama(file, None, logits(with_adapter(base, folder)), base).largest <= 0.01
    settings = read_gguf(file).settings
    assert settings["tokenizer.chat_template"] == (base / "chat_template.jinja").read_text()
    assert settings["tokenizer.ggml.eos_token_id"] == 2
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(
        [file.name, "Modelfile", "README.md", "certificate.html", "certificate.json"]
    )


@pytest.mark.parametrize(("architecture", "outtype"), [("llama", "f16"), ("qwen3", "bf16"), ("gemma3", "f32"), ("gpt2", "f16")])
def test_weights_put_in_their_places_are_the_converters_own_byte_for_byte(
    architecture: str, outtype: str, gguf_bases: Bases, converter: Path, tmp_path: Path
) -> None:
    base = gguf_bases(architecture)
    outcome(write_gguf_model(TaskContext(), base, tmp_path / "ours.gguf", outtype))
    found = llama_cpp.find_converter()
    assert found is not None
    assert found.script.parent == converter
    outcome(llama_cpp.convert(TaskContext(), found, base, tmp_path / "theirs.gguf", outtype))
    ours, theirs = (read_gguf(tmp_path / name) for name in ("ours.gguf", "theirs.gguf"))
    assert ours.tensors == theirs.tensors
    same = (tmp_path / "ours.gguf").read_bytes()[ours.data_start :] == (tmp_path / "theirs.gguf").read_bytes()[theirs.data_start :]
    assert same
    assert check_gguf_tensors(base, tmp_path / "ours.gguf").wrong == []


@pytest.mark.usefixtures("converter")
def test_a_quantized_model_says_how_far_it_is_from_base_and_adapter(gguf_bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(gguf_bases("llama"), tmp_path / "adapter", **targets_of("llama"))
    told = run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"), outtype="q8_0")
    assert (told["dtype"], told["certificate"]["verdict"]) == ("q8_0", "rounded")
    assert 0 < told["certificate"]["kl_divergence"] < 0.05


@pytest.mark.usefixtures("converter")
def test_a_wrong_scale_is_seen_in_llama_cpp(gguf_bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = gguf_export.write_gguf_adapter

    def doubled(adapter: SavedAdapter, *rest: Any) -> None:
        for pair in adapter.pairs.values():
            object.__setattr__(pair, "scale", pair.scale * 1.05)
        sound(adapter, *rest)

    monkeypatch.setattr(gguf_export, "write_gguf_adapter", doubled)  # both writing and recomputing see the wrong scale
    adapter = make_adapter(gguf_bases("llama"), tmp_path / "adapter", **targets_of("llama"))
    with pytest.raises(StudioError, match=r"in llama\.cpp .* from base \+ adapter"):
        run_export(source=str(adapter), kind="gguf-adapter", to=str(tmp_path / "exports/made"))
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["made-failed"]


def test_an_adapter_whose_scale_was_not_folded_is_seen_without_llama_cpp(gguf_bases: Bases, tmp_path: Path) -> None:
    base = gguf_bases("llama")
    tree = inspect_model(base)
    adapter = SavedAdapter.open(make_adapter(base, tmp_path / "adapter", **targets_of("llama"), use_rslora=True), tree)
    for pair in adapter.pairs.values():
        object.__setattr__(pair, "scale", 1.0)
    write_gguf_adapter(adapter, base, tree, tmp_path / "adapter.gguf")
    sound = SavedAdapter.open(tmp_path / "adapter", tree)
    assert "is not the adapter's" in gguf_adapter_fault(sound, base, tree, tmp_path / "adapter.gguf")[1]


@pytest.mark.parametrize(
    ("architecture", "settings", "told"),
    [
        ("llama", {"use_dora": True}, "no DoRA"),
        ("llama", {"modules_to_save": ["lm_head"]}, "this one trained lm_head"),
        ("llama", {"trainable_token_indices": [5]}, "this one trained model.embed_tokens"),
        ("gpt2", {"target_modules": ["c_attn", "wte"]}, "is tied to"),
        ("gpt2", {"lora_bias": True}, "no biases"),
    ],
)
def test_what_a_gguf_adapter_cannot_hold_is_refused_before_anything_is_written(
    architecture: str, settings: dict[str, Any], told: str, gguf_bases: Bases, tmp_path: Path
) -> None:
    adapter = make_adapter(gguf_bases(architecture), tmp_path / "adapter", **{**targets_of(architecture), **settings})
    with pytest.raises(InputError, match=told):
        run_export(source=str(adapter), kind="gguf-adapter", to=str(tmp_path / "exports/made"))
    assert not (tmp_path / "exports").exists()


def test_without_a_converter_the_way_to_it_is_told(gguf_bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(gguf_bases("llama"), tmp_path / "adapter", **targets_of("llama"))
    with pytest.raises(InputError, match=r"needs llama\.cpp's converter") as error:
        run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"))
    assert "--fetch-converter" in error.value.hint


@pytest.mark.usefixtures("converter")
def test_types_that_need_another_program_say_which(gguf_bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    adapter = make_adapter(gguf_bases("llama"), tmp_path / "adapter", **targets_of("llama"))
    with pytest.raises(InputError, match="llama-quantize"):
        run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"), outtype="q4_k_m")


@pytest.mark.usefixtures("converter")
def test_a_cancelled_conversion_leaves_nothing(gguf_bases: Bases, tmp_path: Path) -> None:
    from lora_studio.export.task import export

    adapter = make_adapter(gguf_bases("llama"), tmp_path / "adapter", **targets_of("llama"))
    context = TaskContext()
    with pytest.raises(Cancelled):  # noqa: PT012 - the task is stopped once the converter runs
        for event in export(context, str(adapter), "gguf", str(tmp_path / "exports/made"), outtype="q8_0"):
            if isinstance(event, Phase) and event.name == "converting":
                context.control.stop()
    assert list((tmp_path / "exports").iterdir()) == []


def test_the_converter_is_given_no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lora_studio.export.gguf.programs import run_program

    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    program = tmp_path / "say.py"
    program.write_text("import os; print(sorted(os.environ))")
    lines = [line for line in run_program(TaskContext(), [sys.executable, program]) if line]
    assert lines
    assert "HF_TOKEN" not in lines[0]


@pytest.mark.usefixtures("converter")
def test_a_modelfile_writes_the_starters_form_of_chat(gguf_bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(gguf_bases("llama"), tmp_path / "adapter", **targets_of("llama"))
    run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"), outtype="f32", check="tensors")
    lines = (tmp_path / "made/Modelfile").read_text()
    assert lines.startswith("FROM ./adapter-f32.gguf\nTEMPLATE ")
    assert "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>" in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert 'SYSTEM """You are a helpful AI assistant' in lines


def test_settings_and_vocabulary_are_kept_for_the_next_export_of_the_same_base_by_the_same_converter(
    gguf_bases: Bases, converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, runs = gguf_bases("qwen3"), []
    sound = headers.convert

    def counted(*arguments: Any, **more: Any) -> Any:
        runs.append(1)
        return sound(*arguments, **more)

    monkeypatch.setattr(headers, "convert", counted)
    for name in ("first", "again"):
        outcome(write_gguf_model(TaskContext(), base, tmp_path / f"{name}.gguf", "f16", "alike"))
    assert len(runs) == 1
    assert (tmp_path / "first.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes()
    other = shutil.copytree(base, tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    outcome(write_gguf_model(TaskContext(), other, tmp_path / "other.gguf", "f16", "alike"))
    assert len(runs) == 2
    os.utime(converter / "conversion/qwen.py", (1, 1))  # as a newer release would
    outcome(write_gguf_model(TaskContext(), base, tmp_path / "newer.gguf", "f16", "alike"))
    assert len(runs) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
@pytest.mark.usefixtures("converter")
def test_k_quants_go_through_llama_quantize_from_float32(gguf_bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/llama-quantize"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncp "$1" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    adapter = make_adapter(gguf_bases("qwen3"), tmp_path / "adapter", **targets_of("qwen3"))
    told = run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"), outtype="q4_k_m")
    source, target, kind = (tmp_path / "asked").read_text().split()
    assert kind == "Q4_K_M"
    assert source.endswith(".gguf.f32")
    assert Path(target).name in {path.name for path in (tmp_path / "made").iterdir()}
    assert not list((tmp_path / "made").glob("*.f32"))
    assert (told["dtype"], told["certificate"]["verdict"]) == ("q4_k_m", "rounded")
    program.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    with pytest.raises(StudioError, match="llama-quantize failed: it is broken"):
        run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "exports/other"), outtype="q4_k_m")
    assert list((tmp_path / "exports").iterdir()) == []


def test_new_tokens_are_in_the_gguf_model_with_their_rows(gguf_bases: Bases, converter: Path, tmp_path: Path) -> None:
    base = gguf_bases("llama")
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new0>", "<new1>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    settings = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(str(tmp_path / "adapter"))
    tokenizer.save_pretrained(tmp_path / "adapter")
    told = run_export(source=str(tmp_path / "adapter"), kind="gguf", to=str(tmp_path / "made"), outtype="f32")
    assert told["certificate"]["verdict"] == "exact"
    assert told["certificate"]["max_abs_logit_difference"] < 1e-3
