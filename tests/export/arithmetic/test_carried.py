"""What an adapter has beside its updates: kept bit for bit where that is exact, else refused by name before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_studio.core.errors import InputError, StudioError
from lora_studio.export.arithmetic import tasks
from tests.export.adapters import logits, make_adapter, targets_of, with_adapter
from tests.export.arithmetic.test_arithmetic import done
from tests.export.test_new_tokens import ROWS, WAYS, base_of, reloaded, settings_of, train_new_tokens
from tests.families.configs import tiny_family_model
from tests.tiny import save_tiny_model, save_tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
UNTRAINED = ("plain", "lora_on_embedding", "lora_on_head", "lora_on_both")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of("llama", tmp_path_factory.mktemp("carried"), tied=False)


def drawn_alike(base: Path, adapter: Path) -> torch.Tensor:
    """Load base and adapter, the rows that PEFT did not save drawn from one seed, and answer."""
    torch.manual_seed(0)
    return reloaded(base, adapter)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "kept_tied"])
def test_cutting_keeps_new_tokens_and_saved_modules_as_they_are(way: str, base: Path, tmp_path: Path) -> None:
    train_new_tokens(base, tmp_path / "adapter", settings_of(way, "llama"))
    told = done(tasks.cut, source=str(tmp_path / "adapter"), to=str(tmp_path / "whole"), r=4)["certificate"]
    assert told["passed"]
    assert (drawn_alike(base, tmp_path / "whole") - drawn_alike(base, tmp_path / "adapter")).abs().max() <= 1e-5
    assert len(AutoTokenizer.from_pretrained(tmp_path / "whole")) == ROWS
    done(tasks.cut, source=str(tmp_path / "adapter"), to=str(tmp_path / "cut"), r=1)
    before, after = (load_file(tmp_path / folder / WEIGHTS) for folder in ("adapter", "cut"))
    beside = {key for key in before if "lora_" not in key}
    assert beside == {key for key in after if "lora_" not in key}
    assert all(torch.equal(before[key], after[key]) for key in beside)
    assert bool(told.get("carried")) == bool(beside)


@pytest.mark.parametrize("way", UNTRAINED)
def test_scaling_keeps_the_vocabulary_that_was_not_trained(way: str, base: Path, tmp_path: Path) -> None:
    train_new_tokens(base, tmp_path / "adapter", settings_of(way, "llama"))
    done(tasks.scale, source=str(tmp_path / "adapter"), to=str(tmp_path / "none"), by=0.0)
    done(tasks.scale, source=str(tmp_path / "adapter"), to=str(tmp_path / "same"), by=1.0)
    before, same = (load_file(tmp_path / folder / WEIGHTS) for folder in ("adapter", "same"))
    assert before.keys() == same.keys()
    assert all(torch.equal(before[key], same[key]) for key in before if "lora_" not in key)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "none")) == ROWS
    assert (drawn_alike(base, tmp_path / "same") - drawn_alike(base, tmp_path / "adapter")).abs().max() <= 1e-5


@pytest.mark.parametrize("way", ["embedding", "head", "both", "rows", "rows_of_both"])
@pytest.mark.parametrize("work", ["scale", "combine", "compare"])
def test_what_was_trained_whole_is_neither_scaled_nor_added_and_named(work: str, way: str, base: Path, tmp_path: Path) -> None:
    train_new_tokens(base, tmp_path / "adapter", settings_of(way, "llama"))
    source = str(tmp_path / "adapter")
    made = str(tmp_path / "made")
    arguments: dict[str, dict[str, Any]] = {
        "scale": {"source": source, "by": 0.5, "to": made},
        "combine": {"sources": [source, source], "to": made},
        "compare": {"first": source, "second": source},
    }
    with pytest.raises(InputError, match=r"trained (model\.embed_tokens|lm_head)(\.weight)? itself") as refused:
        done(getattr(tasks, work), **arguments[work])
    assert source in refused.value.message
    assert refused.value.hint.startswith("Merge it into its base")
    assert not (tmp_path / "made").exists()


def test_a_sum_has_the_vocabulary_of_the_one_that_brings_one(base: Path, tmp_path: Path) -> None:
    train_new_tokens(base, tmp_path / "tokens", settings_of("lora_on_both", "llama"))
    make_adapter(base, tmp_path / "plain", **targets_of("llama"))
    told = done(tasks.combine, sources=[str(tmp_path / "plain"), str(tmp_path / "tokens")], to=str(tmp_path / "sum"))
    assert told["certificate"]["carried"] == ["lm_head.weight", "model.embed_tokens.weight"]
    alone = done(tasks.combine, sources=[str(tmp_path / "plain"), str(tmp_path / "tokens")], weights=[0.0, 1.0], to=str(tmp_path / "alone"))
    assert alone["certificate"]["verdict"] == "exact"
    assert (reloaded(base, tmp_path / "alone") - reloaded(base, tmp_path / "tokens")).abs().max() <= 1e-5
    assert len(AutoTokenizer.from_pretrained(tmp_path / "sum")) == ROWS


def test_adapters_with_different_vocabularies_are_not_added(base: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        train_new_tokens(base, tmp_path / name, settings_of("plain", "llama"))
    file = tmp_path / "other" / WEIGHTS
    save_file({key: tensor + 1e-3 * ("embed" in key) for key, tensor in load_file(file).items()}, file, {"format": "pt"})
    arguments: dict[str, Any] = {"sources": [str(tmp_path / "one"), str(tmp_path / "other")], "to": str(tmp_path / "sum")}
    with pytest.raises(InputError, match=r"come with different model\.embed_tokens\.weight") as refused:
        done(tasks.combine, **arguments)
    assert "one vocabulary" in refused.value.hint
    (tmp_path / "other" / WEIGHTS).write_bytes((tmp_path / "one" / WEIGHTS).read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other")
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="different tokenizers"):
        done(tasks.combine, **arguments)
    assert not (tmp_path / "sum").exists()


def test_a_tuned_model_with_new_tokens_is_refused_before_anything_is_taken_apart(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: Any = AutoModelForCausalLM.from_pretrained(base)
    tuned.resize_token_embeddings(ROWS)
    tuned.save_pretrained(tmp_path / "tuned")
    save_tiny_tokenizer(tmp_path / "tuned")
    monkeypatch.setattr("lora_studio.adapters.extract.TwoModels.module_change", lambda *_: pytest.fail("a matrix was read"))
    with pytest.raises(InputError, match=rf"has {ROWS} tokens and .* 384 \(model\.embed_tokens\.weight\)") as refused:
        done(tasks.extract, base=str(base), tuned=str(tmp_path / "tuned"), to=str(tmp_path / "made"), r=2)
    assert "resize_token_embeddings" in refused.value.hint


def test_what_goes_along_and_was_spoiled_fails(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_studio.adapters.write_adapter import write_adapter

    def spoiled(folder: Path, *rest: Any) -> None:
        write_adapter(folder, *rest)
        tensors = load_file(folder / WEIGHTS)
        tensors["base_model.model.lm_head.weight"][3, 5] += 1e-6
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    train_new_tokens(base, tmp_path / "adapter", settings_of("head", "llama"))
    monkeypatch.setattr(tasks, "write_adapter", spoiled)
    with pytest.raises(StudioError, match=r"go along are not as they were, the first is base_model\.model\.lm_head\.weight"):
        done(tasks.cut, source=str(tmp_path / "adapter"), to=str(tmp_path / "made"), r=2)


def test_an_extracted_adapter_has_the_names_by_which_peft_finds_its_modules(tmp_path: Path) -> None:
    model = tiny_family_model("laguna")
    model.save_pretrained(tmp_path / "base")
    tuned = tiny_family_model("laguna")
    changed = [module for name, module in tuned.named_modules() if name.endswith("shared_experts.down_proj")]
    with torch.no_grad():
        for module in changed:
            module.weight += 0.05 * torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(3))
    tuned.save_pretrained(tmp_path / "tuned")
    for name in ("base", "tuned"):
        save_tiny_tokenizer(tmp_path / name)
    done(tasks.extract, base=str(tmp_path / "base"), tuned=str(tmp_path / "tuned"), to=str(tmp_path / "made"), energy=1.0)
    wanted, before = logits(tuned), logits(model)
    assert (wanted - before).abs().max() > 1e-3
    assert (logits(with_adapter(tmp_path / "base", tmp_path / "made")) - wanted).abs().max() <= 1e-4


def test_names_that_peft_reads_stay_those_of_the_adapter(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    made = make_adapter(base, tmp_path / "adapter", **targets_of("llama"))
    done(tasks.scale, source=str(made), to=str(tmp_path / "half"), by=0.5)
    assert load_file(made / WEIGHTS).keys() == load_file(tmp_path / "half" / WEIGHTS).keys()


def test_cutting_keeps_biases_and_norms_that_were_trained(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "gpt2")
    settings = {**targets_of("gpt2"), "bias": "all", "modules_to_save": ["ln_f"]}
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    told = done(tasks.cut, source=str(adapter), to=str(tmp_path / "same"), r=4)["certificate"]
    assert {"transformer.ln_f.weight", "transformer.h.0.attn.c_attn.bias"} <= set(told["carried"])
    meant = logits(with_adapter(base, adapter))
    assert (meant - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-2
    assert (logits(with_adapter(base, tmp_path / "same")) - meant).abs().max() <= 1e-5
