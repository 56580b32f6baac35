from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError
from lora_studio.core.events import Phase, RunFinished
from lora_studio.models.engine import load_engine
from lora_studio.models.fingerprint import weight_fingerprint
from lora_studio.models.load import load_model, load_tokenizer, pick_device, pick_dtype
from lora_studio.models.prepare import prepare
from tests.tiny import ARCHITECTURES, save_tiny_tokenizer

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loaded_model_is_frozen_in_evaluation_mode_with_torchs_attention(architecture: str, tiny_model: Callable[[str], Path]) -> None:
    model = load_model(tiny_model(architecture), torch.float32, CPU)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_held_in_the_dtype_asked_for(dtype: torch.dtype, tiny_model: Callable[[str], Path]) -> None:
    assert {parameter.dtype for parameter in load_model(tiny_model("llama"), dtype, CPU).parameters()} == {dtype}


def test_tied_weights_are_one_tensor(tiny_model: Callable[[str], Path]) -> None:
    model = load_model(tiny_model("qwen3"), torch.float32, CPU)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_folder_without_weights_is_refused(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        load_model(folder, torch.float32, CPU)
    with pytest.raises(InputError, match="no weights"):
        list(prepare(TaskContext(), str(folder)))


def test_missing_tensor_is_refused_instead_of_made_up(model_copy: Callable[..., Path]) -> None:
    from safetensors.numpy import load_file, save_file

    folder = model_copy()
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights that its config calls for, first model\.norm\.weight"):
        load_model(folder, torch.float32, CPU)


def test_config_of_another_size_is_refused(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}), encoding="utf-8")
    with pytest.raises(InputError, match=str(folder)):
        load_model(folder, torch.float32, CPU)


def test_code_beside_the_weights_is_never_run(model_copy: Callable[..., Path], tmp_path: Path) -> None:
    folder = model_copy()
    (folder / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    own = {**tokenizer, "tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["modeling_own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own), encoding="utf-8")
    with pytest.raises(InputError, match="asks for code of its own"):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_tokenizer_keeps_its_own_pad_token(tiny_model: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(tiny_model("llama"))
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == ("<pad>", "<|im_end|>", "right")


def test_tokenizer_without_pad_token_gets_one(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    save_tiny_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id is not None


def test_folder_without_tokenizer_is_named(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    for file in (*folder.glob("tokenizer*"), *folder.glob("*.jinja"), *folder.glob("special*")):
        file.unlink()
    with pytest.raises(InputError, match="tokenizer") as caught:
        load_tokenizer(folder)
    assert "tokenizer.json" in caught.value.hint


def test_damaged_tokenizer_is_named(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(folder)


def test_device_that_is_not_there_marks_its_field() -> None:
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InputError, match=f"no {absent} device") as caught:
        pick_device(absent)
    assert caught.value.field == "training.device"


def test_dtype_asked_for_wins_over_what_is_quick() -> None:
    assert pick_dtype(CPU, "float16") == torch.float16
    assert pick_dtype(CPU, "bfloat16") == torch.bfloat16


@pytest.mark.parametrize(("abilities", "expected"), [({"avx2": True}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)])
def test_dtype_on_a_cpu_follows_its_instructions(
    abilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: abilities)
    assert pick_dtype(CPU, stored="bfloat16") == expected


def test_fingerprint_tells_weights_apart_and_ignores_where_they_lie(
    model_copy: Callable[..., Path], tiny_model: Callable[[str], Path]
) -> None:
    folder = model_copy()
    assert weight_fingerprint(folder) == weight_fingerprint(tiny_model("llama"))
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert weight_fingerprint(folder) != weight_fingerprint(tiny_model("llama"))


def test_fingerprint_is_read_from_the_cache_the_second_time(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = weight_fingerprint(tiny_model("llama"))
    monkeypatch.setattr("lora_studio.models.fingerprint.sha256_of", lambda _path: pytest.fail("the weights were read again"))
    assert weight_fingerprint(tiny_model("llama")) == first


def test_fingerprint_of_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights"):
        weight_fingerprint(tmp_path)


def test_engine_tells_each_part_and_what_there_is() -> None:
    *phases, last = load_engine(TaskContext())
    assert isinstance(last, RunFinished)
    assert last.result["torch"] == torch.__version__
    assert last.result["device"] in ("cpu", "cuda", "mps")
    assert [phase.done for phase in phases if isinstance(phase, Phase)] == list(range(len(phases)))


def test_engine_can_be_cancelled_between_its_parts() -> None:
    context = TaskContext()
    context.control.stop()
    with pytest.raises(Cancelled):
        list(load_engine(context))


def test_prepare_gives_a_ready_folder_as_it_is(tiny_model: Callable[[str], Path]) -> None:
    (last,) = prepare(TaskContext(), str(tiny_model("llama")))
    assert isinstance(last, RunFinished)
    assert last.result == {"path": str(tiny_model("llama")), "commit": ""}
