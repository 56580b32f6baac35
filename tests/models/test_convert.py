from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError
from lora_studio.core.events import Phase, RunFinished
from lora_studio.core.locks import lock_file, unlock_file
from lora_studio.models.converted import converted_folder, converted_root, earlier_folder
from lora_studio.models.device import pick_device
from lora_studio.models.facts import read_facts
from lora_studio.models.fingerprint import weight_fingerprint
from lora_studio.models.inspect import empty_model, tree_of
from lora_studio.models.load import load_model, load_tokenizer
from lora_studio.models.prepare import prepare
from lora_studio.models.sources import find_model, local_models
from lora_studio.models.tree_cache import config_hash, starter_file, starter_tree
from tests.models.fake_hub import stop_past
from tests.models.tiny_gguf import write_tiny_gguf


def convert(name: str) -> Path:
    *_, last = prepare(TaskContext(), name)
    assert isinstance(last, RunFinished)
    return Path(last.result["path"])


@pytest.fixture
def tiny_gguf(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    return write_tiny_gguf(tiny_model("llama"), tmp_path / "tiny.gguf", "llama")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_converted_weights_are_those_the_file_was_made_from(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = convert(str(write_tiny_gguf(tiny_model(family), tmp_path / "tiny.gguf", family)))
    source = load_model(tiny_model(family), torch.float32, pick_device("cpu"))
    copy = load_model(folder, torch.float32, pick_device("cpu"))
    for name, weights in source.state_dict().items():
        assert torch.equal(weights, copy.state_dict()[name]), name
    tokens = torch.arange(5, 40)[None]
    assert torch.equal(source(tokens).logits, copy(tokens).logits)


def test_converted_tokenizer_gives_the_same_tokens_and_chat(tiny_gguf: Path, tiny_model: Callable[[str], Path]) -> None:
    mine, theirs = load_tokenizer(tiny_model("llama")), load_tokenizer(convert(str(tiny_gguf)))
    text = "Dear support, <|im_end|> my parcel"
    assert theirs(text).input_ids == mine(text).input_ids
    assert theirs.chat_template == mine.chat_template
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<pad>")


def test_float_files_keep_their_precision(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    whole = convert(str(write_tiny_gguf(tiny_model("llama"), tmp_path / "whole.gguf", "llama")))
    half = convert(str(write_tiny_gguf(tiny_model("llama"), tmp_path / "half.gguf", "llama", as_float16=True)))
    assert (read_facts(whole).dtype, read_facts(half).dtype) == ("float32", "float16")


def test_converted_file_is_found_ready_listed_and_licensed(tiny_gguf: Path) -> None:
    assert find_model(str(tiny_gguf)).needs == "convert"
    assert read_facts(tiny_gguf).licence == "mit"
    folder = convert(str(tiny_gguf))
    assert find_model(str(tiny_gguf)).path == folder
    assert str(tiny_gguf) in [source.name for source in local_models()]
    assert read_facts(folder).licence == "mit"


def test_changed_file_is_converted_again(tiny_gguf: Path, tiny_model: Callable[[str], Path]) -> None:
    before = convert(str(tiny_gguf))
    write_tiny_gguf(tiny_model("llama"), tiny_gguf, "llama", as_float16=True)
    assert find_model(str(tiny_gguf)).needs == "convert"
    assert convert(str(tiny_gguf)) != before


def test_a_copy_of_an_earlier_release_keeps_its_weights_and_gets_todays_tokenizer(tiny_gguf: Path) -> None:
    new = convert(str(tiny_gguf))
    wanted, fingerprint = (new / "tokenizer.json").read_bytes(), weight_fingerprint(new)
    earlier = new.rename(earlier_folder(tiny_gguf))
    (earlier / "tokenizer.json").write_text("{}")
    stamp = (earlier / "model.safetensors").stat().st_mtime_ns
    assert [source.needs for source in local_models() if source.file == tiny_gguf] == ["convert"]
    again = convert(str(tiny_gguf))
    assert ((again / "tokenizer.json").read_bytes(), weight_fingerprint(again)) == (wanted, fingerprint)
    assert (again / "model.safetensors").stat().st_mtime_ns == stamp
    assert not earlier.exists()


def test_cancelled_conversion_leaves_nothing(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.models.convert._PROGRESS_SECONDS", 0.0)
    context = TaskContext()
    with pytest.raises(Cancelled):
        stop_past(prepare(context, str(tiny_gguf)), context, 3)
    assert [path.name for path in converted_root().iterdir() if path.is_dir()] == []
    assert find_model(str(tiny_gguf)).needs == "convert"


def test_second_conversion_waits_for_the_first_and_can_be_cancelled(tiny_gguf: Path) -> None:
    converted_root().mkdir(parents=True)
    lock = lock_file(converted_root() / f".{converted_folder(tiny_gguf).name}.lock")
    assert lock is not None
    context = TaskContext()
    events = prepare(context, str(tiny_gguf))
    waiting = next(events)
    assert isinstance(waiting, Phase)
    assert "Waiting" in waiting.message
    context.control.stop()
    with pytest.raises(Cancelled):
        next(events)
    unlock_file(lock)
    assert convert(str(tiny_gguf)).is_dir()


def test_file_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "odd.gguf", "wholly_new")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="family wholly_new"):
        convert(str(tmp_path / "odd.gguf"))
    assert not list(converted_root().glob("*wholly*"))


def test_file_without_some_of_its_weights_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "poor"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks 1 weights of its family, first model\.layers\.1\.mlp\.up_proj\.weight"):
        convert(str(write_tiny_gguf(folder, tmp_path / "poor.gguf", "llama")))


def test_cut_file_is_refused_before_it_is_converted(tiny_gguf: Path) -> None:
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:-100])
    with pytest.raises(InputError, match="is cut"):
        find_model(str(tiny_gguf))


def test_header_read_here_agrees_with_the_gguf_library(tiny_gguf: Path) -> None:
    from gguf import GGUFReader

    from lora_studio.models.gguf_header import read_gguf

    header, theirs = read_gguf(tiny_gguf), GGUFReader(tiny_gguf)
    assert [(one.name, one.shape, one.dtype, one.bytes, header.data_start + one.offset) for one in header.tensors] == [
        (one.name, tuple(one.shape.tolist()), one.tensor_type.name, one.n_bytes, one.data_offset) for one in theirs.tensors
    ]
    assert header.settings["llama.rope.freq_base"] == theirs.fields["llama.rope.freq_base"].contents()
    assert header.array_lengths["tokenizer.ggml.tokens"] == len(theirs.fields["tokenizer.ggml.tokens"].data)


def test_config_read_from_the_header_agrees_with_transformers(tiny_gguf: Path) -> None:
    from transformers import AutoConfig

    from lora_studio.models.convert import _llama_config
    from lora_studio.models.gguf_header import read_gguf

    theirs = AutoConfig.from_pretrained(str(tiny_gguf.parent), gguf_file=tiny_gguf.name).to_dict()
    mine = _llama_config(read_gguf(tiny_gguf)).to_dict()
    assert {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)} <= {"_name_or_path", "_model_name_or_path"}


def test_starter_answers_a_question_with_its_shipped_tree(starter_ready: Path) -> None:
    assert find_model("starter").path == starter_ready
    folder = convert("starter")
    assert folder == starter_ready
    facts, tree = read_facts(folder), starter_tree()
    assert tree is not None
    assert (facts.parameters, facts.layers, facts.dtype, facts.licence) == (134_515_008, 30, "bfloat16", "apache-2.0")
    assert tree.all_parameters == facts.parameters
    assert tree.tied_embeddings
    shipped = starter_file().read_text(encoding="utf-8")
    assert f'"config_hash":"{config_hash(folder)}"' in shipped, "run python -m tests.models.write_starter_tree"
    assert tree == tree_of(empty_model(folder))
    model, tokenizer = load_model(folder, torch.float32, pick_device("cpu")), load_tokenizer(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
