"""Adapters with new tokens, however PEFT saved them: imported, exported and merged as PEFT computes them, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.export.formats import offers
from lora_studio.export.imports.importer import import_adapter
from lora_studio.export.task import export
from lora_studio.export.verify.rows import ComparisonRows
from lora_studio.inference.chat import chat
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.models.inspect import inspect_model
from tests.export.adapters import EMBEDDINGS, run_export
from tests.tiny import save_tiny_model, save_tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS, NEW = 392, [384, 385, 390]
PROBE = torch.tensor([[5, 9, 385, 120, 33, 390, 7, 250, 384, 18]])
Tiny = Callable[[str], Path]
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "embedding": {"modules_to_save": ["E"]},
    "head": {"modules_to_save": ["lm_head"]},
    "both": {"modules_to_save": ["E", "lm_head"]},
    "kept_tied": {"modules_to_save": ["E"], "ensure_weight_tying": True},
    "rows": {"trainable_token_indices": {"E": NEW}},
    "rows_of_both": {"trainable_token_indices": {"E": NEW, "lm_head": NEW}},
    "other_rows_of_head": {"trainable_token_indices": {"E": NEW, "lm_head": [384, 391]}},
    "lora_on_embedding": {"target_modules": ["E"]},
    "lora_on_head": {"target_modules": ["lm_head"]},
    "lora_on_both": {"target_modules": ["E", "lm_head"]},
    "lora_on_embedding_and_head": {"target_modules": ["E"], "modules_to_save": ["lm_head"]},
    "lora_on_head_and_embedding": {"target_modules": ["lm_head"], "modules_to_save": ["E"]},
}
TIED_LORA = ("lora_on_embedding", "lora_on_head", "lora_on_both")
LINEAR = {"gpt2": "c_attn"}


def settings_of(way: str, architecture: str) -> dict[str, Any]:
    """Return PEFT's settings of one way to train new tokens, beside a LoRA on attention."""
    text = json.dumps(WAYS[way]).replace('"E"', f'"{EMBEDDINGS.get(architecture, "embed_tokens")}"')
    settings: dict[str, Any] = json.loads(text)
    return {**settings, "target_modules": [LINEAR.get(architecture, "q_proj"), *settings.get("target_modules", [])]}


def train_new_tokens(base: Path, folder: Path, settings: dict[str, Any], *, save: bool | str = "auto", rows: int = ROWS) -> torch.Tensor:
    """Add tokens to a base and save an adapter with them, as people do; give what it answers before it is saved."""
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<new{number}>" for number in range(ROWS - len(tokenizer))])
    model.resize_token_embeddings(rows)
    adapted: Any = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **settings))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and ("modules_to_save" in name or "trainable_tokens" in name):
            torch.nn.init.normal_(parameter, std=0.1)
        elif "lora_embedding" in name:
            torch.nn.init.normal_(parameter, std=0.2)  # PEFT draws these with a spread of 1
    adapted.save_pretrained(folder, save_embedding_layers=save)
    tokenizer.save_pretrained(folder)
    return answers(adapted)


def answers(model: Any) -> torch.Tensor:
    """Return the logits on a row with old and new tokens."""
    with torch.inference_mode():
        return model.float().eval()(input_ids=PROBE).logits


def reloaded(base: Path, adapter: Path) -> torch.Tensor:
    """Load base and adapter as anyone would, and answer."""
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(ROWS, mean_resizing=False)
    return answers(PeftModel.from_pretrained(model, str(adapter)))


def brought_in(base: Path, adapter: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Import an adapter; give its folder here and the codes of what there is to know of it."""
    found = import_adapter(adapter, tmp_path / "imported", str(base))
    return found.folder, [finding.code for finding in found.findings]


def base_of(architecture: str, tmp_path: Path, *, tied: bool) -> Path:
    return save_tiny_model(tmp_path / "base", architecture, tie_word_embeddings=tied)


def check_merged(folder: Path, expected: torch.Tensor, within: float = 1e-5) -> None:
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert (answers(merged) - expected).abs().max() <= within
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (merged.config.vocab_size, len(tokenizer)) == (ROWS, ROWS)
    assert tokenizer("<new1>", add_special_tokens=False)["input_ids"] == [385]


@pytest.mark.parametrize(
    "way",
    [
        "plain",
        "embedding",
        "head",
        "rows_of_both",
        "other_rows_of_head",
        "lora_on_both",
        "lora_on_head_and_embedding",
    ],
)
def test_new_tokens_of_an_untied_model_are_merged_and_exported_as_peft_computes_them(way: str, tmp_path: Path) -> None:
    base = base_of("llama", tmp_path, tied=False)
    expected = train_new_tokens(base, tmp_path / "adapter", settings_of(way, "llama"))
    adapter, codes = brought_in(base, tmp_path / "adapter", tmp_path)
    assert codes == ["vocabulary_resized"]
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert (told["certificate"]["verdict"], told["certificate"]["grade"]) == ("exact", "logits")
    check_merged(tmp_path / "merged", expected)
    told = run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "copy"))
    assert told["certificate"]["verdict"] == "exact"
    assert (reloaded(base, tmp_path / "copy") - expected).abs().max() <= 1e-5
    assert len(AutoTokenizer.from_pretrained(tmp_path / "copy")) == ROWS


@pytest.mark.parametrize(
    ("architecture", "way"),
    [
        *(("qwen3", way) for way in ("plain", "embedding", "head", "kept_tied", "rows", "rows_of_both", "lora_on_embedding_and_head")),
        *(("gpt2", way) for way in ("both", "rows")),
    ],
)
def test_new_tokens_of_a_tied_model_are_merged_as_peft_computes_them(architecture: str, way: str, tmp_path: Path) -> None:
    base = base_of(architecture, tmp_path, tied=True)
    expected = train_new_tokens(base, tmp_path / "adapter", settings_of(way, architecture))
    adapter, codes = brought_in(base, tmp_path / "adapter", tmp_path)
    assert codes == ["vocabulary_resized"]
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert told["certificate"]["verdict"] == "exact"
    check_merged(tmp_path / "merged", expected)
    stays_tied = way in ("plain", "kept_tied", "rows", "rows_of_both")
    assert AutoConfig.from_pretrained(tmp_path / "merged").tie_word_embeddings is stays_tied


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        *((way, r"is tied to .*: an adapter here would merge wrongly") for way in TIED_LORA),
        ("other_rows_of_head", r"trains rows of lm_head apart from those of model\.embed_tokens"),
    ],
)
def test_what_peft_merges_wrongly_on_tied_new_tokens_is_refused_for_that_and_exported_as_adapter(
    way: str, reason: str, tmp_path: Path
) -> None:
    base = base_of("qwen3", tmp_path, tied=True)
    expected = train_new_tokens(base, tmp_path / "adapter", settings_of(way, "qwen3"))
    adapter, _ = brought_in(base, tmp_path / "adapter", tmp_path)
    with pytest.raises(InputError, match=reason):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    told = run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "copy"))
    assert told["certificate"]["verdict"] == "exact"
    assert (reloaded(base, tmp_path / "copy") - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("way", "lacking"), [("lora_on_embedding", "lm_head"), ("lora_on_head", "model.embed_tokens")])
def test_an_end_that_peft_did_not_save_gets_the_mean_for_new_tokens_and_that_is_told(way: str, lacking: str, tmp_path: Path) -> None:
    base = base_of("llama", tmp_path, tied=False)
    expected = train_new_tokens(base, tmp_path / "adapter", settings_of(way, "llama"))
    found = import_adapter(tmp_path / "adapter", tmp_path / "imported", str(base))
    assert [finding.code for finding in found.findings] == ["vocabulary_resized", "rows_unsaved"]
    assert f"lacks rows of {lacking} for new tokens" in found.findings[1].message
    events = list(export(TaskContext(), str(found.folder), "merged", str(tmp_path / "merged"), "float32"))
    assert [event.code for event in events if event.event == "notice"] == ["vocabulary_resized", "rows_unsaved"]
    check_merged(tmp_path / "merged", expected, within=1e-3)  # transformers draws them from around the mean


@pytest.mark.parametrize("way", ["both", "kept_tied", "rows"])
def test_new_tokens_saved_without_the_layers_around_them_are_merged(way: str, tmp_path: Path) -> None:
    base = base_of("qwen3", tmp_path, tied=True)
    settings = settings_of(way, "qwen3")
    if way == "rows":
        settings["trainable_token_indices"] = {"embed_tokens": list(range(384, ROWS))}
    expected = train_new_tokens(base, tmp_path / "adapter", settings, save=False)
    adapter, codes = brought_in(base, tmp_path / "adapter", tmp_path)
    assert codes == ["vocabulary_resized"]
    run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    check_merged(tmp_path / "merged", expected)


def test_a_vocabulary_cut_to_its_tokenizer_is_merged_so(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "llama", vocab_size=448)
    expected = train_new_tokens(base, tmp_path / "adapter", settings_of("lora_on_head", "llama"))
    adapter, codes = brought_in(base, tmp_path / "adapter", tmp_path)
    assert codes == ["vocabulary_resized"]
    run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    check_merged(tmp_path / "merged", expected)


@pytest.mark.parametrize(("save", "within"), [("auto", 1e-5), (False, 1e-3)], ids=["saved", "unsaved"])
def test_a_bias_of_the_head_is_resized_with_it_and_no_row_is_longer_than_the_model(save: bool | str, within: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "rotary_dim": 4, "n_positions": 64}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("gptj", vocab_size=384, **sizes))
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path / "base")
    save_tiny_tokenizer(tmp_path / "base")
    expected = train_new_tokens(tmp_path / "base", tmp_path / "adapter", {"target_modules": ["q_proj"]}, save=save)
    told = run_export(source=str(tmp_path / "adapter"), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert told["certificate"]["grade"] == "logits"
    check_merged(tmp_path / "merged", expected, within=within)


def test_new_tokens_merged_in_bfloat16_are_the_rounding_of_the_exact_sum(tmp_path: Path) -> None:
    base = base_of("qwen3", tmp_path, tied=True)
    train_new_tokens(base, tmp_path / "adapter", settings_of("rows", "qwen3"))
    told = run_export(source=str(tmp_path / "adapter"), kind="merged", to=str(tmp_path / "merged"), dtype="bfloat16")
    assert (told["certificate"]["verdict"], told["certificate"]["exact_logit_difference"]) == ("rounded", 0.0)


def test_rows_to_compare_on_have_the_new_tokens_and_none_beyond_the_vocabulary() -> None:
    rows = ComparisonRows(((1, 2, 900), (900,)), "general text").with_tokens([384, 385]).within(386)
    assert rows.rows == ((384, 385, 1, 2),)


def test_a_wrong_base_is_no_vocabulary_of_another_size(tmp_path: Path) -> None:
    small, large = (save_tiny_model(tmp_path / name, "llama", vocab_size=size) for name, size in (("small", 384), ("large", 2000)))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(large), LoraConfig(r=4, target_modules=["lm_head", "q_proj"]))
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    with pytest.raises(InputError, match=r"does not fit .*lm_head is 384 × 32 there, and the adapter's lora_B is 2000 × 4"):
        import_adapter(tmp_path / "adapter", tmp_path / "imported", str(small))


def test_rows_trained_beyond_a_base_are_of_another_base(tmp_path: Path) -> None:
    small, large = (save_tiny_model(tmp_path / name, "llama", vocab_size=size) for name, size in (("small", 384), ("large", 2000)))
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[1999])
    get_peft_model(AutoModelForCausalLM.from_pretrained(large), config).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(InputError, match=r"it is of a vocabulary of 2,000 tokens, the base's has 384"):
        import_adapter(tmp_path / "adapter", tmp_path / "imported", str(small))


def test_ends_of_several_sizes_are_refused(tmp_path: Path) -> None:
    base = base_of("llama", tmp_path, tied=False)
    train_new_tokens(base, tmp_path / "adapter", settings_of("plain", "llama"))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("lm_head.weight"))
    save_file({**tensors, name: tensors[name][:-2].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"several sizes: model\.embed_tokens \(weight\) 392, lm_head \(weight\) 390 rows"):
        import_adapter(tmp_path / "adapter", tmp_path / "imported", str(base))


def test_tokens_that_the_vocabulary_has_no_rows_for_are_told(tmp_path: Path) -> None:
    base = base_of("llama", tmp_path, tied=False)
    train_new_tokens(base, tmp_path / "adapter", settings_of("both", "llama"), rows=391)
    adapter, codes = brought_in(base, tmp_path / "adapter", tmp_path)
    assert codes == ["tokens_beyond", "vocabulary_resized"]
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert told["certificate"]["verdict"] == "exact"
    assert [finding["code"] for finding in told["findings"]] == ["tokens_beyond", "vocabulary_resized"]


@pytest.mark.parametrize("way", ["plain", "rows", "lora_on_both"])
def test_a_loaded_base_takes_new_tokens_on_and_is_as_it_was_after(way: str, tmp_path: Path) -> None:
    base = base_of("llama", tmp_path, tied=False)
    expected = train_new_tokens(base, tmp_path / "adapter", settings_of(way, "llama"))
    host = LoadedModel()
    before = {name: tensor.clone() for name, tensor in host.base(base, torch.float32, torch.device("cpu")).state_dict().items()}
    with host.with_adapter(tmp_path / "adapter") as model:
        assert torch.equal(answers(model), expected)
    after = host.base(base, torch.float32, torch.device("cpu")).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_chat_gives_the_adapter_its_own_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of("qwen3", tmp_path, tied=True)
    train_new_tokens(base, tmp_path / "adapter", settings_of("rows", "qwen3"))
    asked: list[list[int]] = []

    def noted(_model: Any, _tokenizer: Any, prompts: list[list[int]], *_: Any) -> list[str]:
        asked.extend(prompts)
        return ["an answer"]

    monkeypatch.setattr("lora_studio.inference.chat.answer", noted)
    last: Any = list(chat(TaskContext(), str(tmp_path / "adapter"), "<new1>", compare=True))[-1]
    assert last.result == {"base": "an answer", "adapter": "an answer"}
    assert [385 in prompt for prompt in asked] == [False, True]


def test_new_tokens_are_not_offered_as_a_gguf_adapter(tmp_path: Path) -> None:
    base = base_of("llama", tmp_path, tied=False)
    train_new_tokens(base, tmp_path / "adapter", settings_of("lora_on_both", "llama"))
    inspect_model(base)
    assert "another vocabulary" in offers(tmp_path / "adapter", base)["gguf-adapter"].reason
    assert not offers(tmp_path / "adapter", base)["merged"].reason
    with pytest.raises(InputError, match="another vocabulary"):
        run_export(source=str(tmp_path / "adapter"), kind="gguf-adapter", to=str(tmp_path / "made"))


def test_an_adapter_without_a_tokenizer_of_its_own_is_merged_with_the_bases(tmp_path: Path) -> None:
    base = base_of("llama", tmp_path, tied=False)
    expected = train_new_tokens(base, tmp_path / "trained", settings_of("both", "llama"))
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(tmp_path / "trained" / name, tmp_path / "adapter" / name)
    run_export(source=str(tmp_path / "adapter"), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (answers(merged) - expected).abs().max() <= 1e-5
    assert (merged.config.vocab_size, len(AutoTokenizer.from_pretrained(tmp_path / "merged"))) == (ROWS, 384)
