"""The model card: true, of nobody's machine, and read by the Hub as what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.events import Evaluation, RunEvent, RunResumed, RunStarted, Step, event_to_json
from lora_studio.export.card.card import model_card, write_card
from lora_studio.export.card.loading import loading_lines, loadings
from lora_studio.export.redact import hub_id, plain, public_name
from lora_studio.export.source import find_source
from lora_studio.models.facts import ModelFacts
from tests.export.handmade import write_adapter

CERTIFICATE: Mapping[str, Any] = {
    "verdict": "exact",
    "rows": 16,
    "rows_from": "held-out rows of the run",
    "max_abs_logit_difference": 1e-6,
    "top1_agreement": 1.0,
    "effect_lost": 0.0,
    "passed": True,
}
FACTS = ModelFacts("LlamaForCausalLM", "llama", 1000, 2, "float32", 4000, tied_embeddings=False, licence="apache-2.0")
KINDS = ("adapter", "merged", "gguf", "gguf-adapter")


def step(number: int, loss: float, attempt: int = 1) -> Step:
    return Step(
        seq=number,
        time=float(number),
        attempt=attempt,
        step=number,
        epoch=0.0,
        loss=loss,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens=10 * number,
        trained_tokens=4 * number,
        tokens_per_second=1.0,
        seconds=1.0,
    )


def evaluation(number: int, loss: float) -> Evaluation:
    return Evaluation(seq=0, time=float(number), attempt=1, step=number, loss=loss, rows=1, trained_tokens=1, seconds=0.1)


def started() -> RunStarted:
    return RunStarted(
        seq=0,
        time=0.0,
        attempt=1,
        step=0,
        total_steps=4,
        train_rows=8,
        eval_rows=2,
        trainable_parameters=10,
        all_parameters=100,
        device="cpu",
        compute_dtype="float32",
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that took four steps, was cut off after the second, and took the third and fourth again."""
    folder = tmp_path / "somebodys-home" / "runs" / "triage"
    folder.mkdir(parents=True)
    write_config(folder / "run.yaml", RunConfig(name="triage"))
    write_adapter(folder / "adapter")
    events: list[RunEvent] = [
        started(),
        evaluation(0, 5.0),
        step(1, 4.0),
        step(2, 3.0),
        step(3, 9.0),
        RunResumed(seq=5, time=5.0, attempt=2, step=2, from_step=2, total_steps=4),
        step(3, 2.0, 2),
        step(4, 1.0, 2),
        evaluation(4, 1.5),
    ]
    (folder / "events.jsonl").write_text("".join(f"{event_to_json(event)}\n" for event in events), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"base": {"commit": "c0ffee" * 6 + "c0ff"}}), encoding="utf-8")
    data = {
        "files": [
            {"path": str(tmp_path / "somebodys-home" / "secret plans.jsonl"), "rows": 8, "format": "messages", "split": "train"},
            {"path": "hf://squad/rows/train.parquet", "rows": 2, "format": "messages", "split": "eval"},
        ],
        "tokens": {"total": 100, "trained": 25},
        "train_rows": 8,
        "eval_rows": 2,
    }
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def front_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---")[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_of_every_kind_says_base_commit_data_results_and_licence(kind: str, run: Path) -> None:
    card = model_card(find_source(run), kind, "float32", CERTIFICATE, FACTS)
    for told in (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "c0ffee",
        "`secret plans.jsonl` (8 rows, messages)",
        "held out",
        "25 of 100 tokens trained (25.0%)",
        "4 steps, 16 trained tokens, last training loss 1.0000",
        "5.0000 at step 0, 1.5000 at step 4",
        "`apache-2.0`",
        "verdict *exact*",
        "| `r` | 4 |",
    ):
        assert told in card, told


@pytest.mark.parametrize(
    ("kind", "library", "relation"),
    [
        ("adapter", "peft", "adapter"),
        ("merged", "transformers", "finetune"),
        ("gguf", "gguf", "finetune"),
        ("gguf-adapter", "gguf", "adapter"),
    ],
)
def test_the_front_matter_has_the_fields_the_hub_knows(kind: str, library: str, relation: str, run: Path) -> None:
    card = model_card(find_source(run), kind, "float32", CERTIFICATE, FACTS)
    read = ModelCard(card).data.to_dict()
    assert read["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (read["library_name"], read["base_model_relation"], read["pipeline_tag"]) == (library, relation, "text-generation")
    assert (read["license"], read["datasets"]) == ("apache-2.0", ["squad/rows"])
    assert "lora" in read["tags"]


def test_a_licence_the_hub_has_no_word_for_is_named(run: Path) -> None:
    facts = ModelFacts("LlamaForCausalLM", "llama", 1, 1, "float32", 1, tied_embeddings=False, licence="Tiny Research Licence")
    front = front_of(model_card(find_source(run), "merged", "float32", CERTIFICATE, facts))
    assert (front["license"], front["license_name"]) == ("other", "tiny-research-licence")
    assert front["license_link"].endswith("HuggingFaceTB/SmolLM2-135M-Instruct")


def test_without_the_bases_licence_none_is_claimed(run: Path) -> None:
    card = model_card(find_source(run), "adapter", "float32", CERTIFICATE)
    assert "license" not in front_of(card)
    assert "licence" not in card


@pytest.mark.parametrize("kind", KINDS)
def test_no_folder_of_this_machine_stands_in_card_or_picture(kind: str, run: Path, tmp_path: Path) -> None:
    write_config(run / "run.yaml", RunConfig(name="triage").replace({"model.name_or_path": str(tmp_path / "somebodys-home" / "my-base")}))
    out = tmp_path / "out"
    out.mkdir()
    write_card(out, find_source(run), kind, "float32", CERTIFICATE)
    assert {path.name for path in out.iterdir()} == {"README.md", "curves.svg"}
    for path in out.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "somebodys-home" not in text
        assert str(tmp_path) not in text
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "`my-base`" in card
    assert "base_model" not in front_of(card)
    assert "](curves.svg)" in card


def test_the_card_of_a_checkpoint_tells_of_the_steps_before_it_alone(run: Path) -> None:
    checkpoint = write_adapter(run / "checkpoints" / "step-000002")
    card = model_card(find_source(checkpoint), "adapter", "float32", CERTIFICATE)
    assert "2 steps, 8 trained tokens, last training loss 3.0000" in card
    assert "1.5000" not in card


def test_an_adapter_of_no_run_has_a_card_without_training(tmp_path: Path) -> None:
    write_card(tmp_path, find_source(write_adapter(tmp_path / "a")), "adapter", "float32", CERTIFICATE)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## Training" not in card
    assert not (tmp_path / "curves.svg").exists()


def test_the_card_of_a_broken_record_is_written_without_it(run: Path) -> None:
    for name in ("data.json", "environment.json"):
        (run / name).write_text("[1, {", encoding="utf-8")
    assert "4 steps" in model_card(find_source(run), "adapter", "float32", CERTIFICATE)


def test_an_adapter_says_where_it_can_be_served(run: Path) -> None:
    card = model_card(find_source(run), "adapter", "float32", CERTIFICATE, FACTS)
    assert "| vLLM | yes | This folder, by --enable-lora (by its source; it was not run). |" in card
    assert "Where it can be served" not in model_card(find_source(run), "merged", "float32", CERTIFICATE, FACTS)


def test_names_that_hold_markup_are_text_in_the_card(tmp_path: Path) -> None:
    hostile = "x`|\n# <img src=q onerror=alert(1)>"
    adapter = write_adapter(tmp_path / "a<b>", base_model_name_or_path=hostile, target_modules=hostile)
    card = model_card(find_source(adapter), "adapter", "float32", CERTIFICATE)
    assert "\n# <img" not in card
    assert card.count("\n# ") == 1
    title = next(line for line in card.splitlines() if line.startswith("# "))
    assert title == "# a\\<b\\>"
    row = next(line for line in card.splitlines() if line.startswith("| `target_modules`"))
    assert row.replace("\\|", "").count("|") == 3


@pytest.mark.parametrize(
    ("name", "public", "hub"),
    [
        ("owner/model", "owner/model", "owner/model"),
        ("gpt2", "gpt2", "gpt2"),
        ("/home/jo/base", "base", ""),
        ("~/models/base", "base", ""),
        (r"C:\Users\jo\base", "base", ""),
        ("../base", "base", ""),
        ("models/base.gguf", "base.gguf", ""),
        ("starter", "HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/home/jo/base/", "base", ""),
    ],
)
def test_names_for_others_are_hub_ids_or_last_parts(name: str, public: str, hub: str) -> None:
    assert (public_name(name), hub_id(name)) == (public, hub)


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jo" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert (public_name("jo/base"), hub_id("jo/base")) == ("base", "")


def test_plain_text_is_one_line_without_markup() -> None:
    assert plain("a\n*b* \x00[c](d)") == r"a \*b\* \[c\](d)"


@pytest.mark.parametrize("kind", KINDS)
def test_loading_lines_are_code_that_names_the_folder(kind: str) -> None:
    folder = "/it's here/my model"
    for way in loadings(kind, folder, "owner/base"):
        if way.language == "python":
            compile(way.lines, "lines", "exec")
            assert repr(folder) in way.lines or repr(folder)[1:-1] in way.lines
        else:
            assert "'\"'\"'" in way.lines  # quoted for the shell


def test_a_gguf_is_loaded_by_llama_server_ollama_and_xllamacpp() -> None:
    lines = loading_lines("gguf", "there", "owner/base", "triage-q8_0.gguf")
    assert "llama-server -m there/triage-q8_0.gguf" in lines
    assert "ollama create triage-q8_0 -f Modelfile" in lines
    assert "params.model.path = 'there/triage-q8_0.gguf'" in lines
    assert "--lora there/adapter.gguf" in loading_lines("gguf-adapter", "there", "owner/base")
