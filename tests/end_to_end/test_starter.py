"""The first session through the real window off-screen: what a person saw, from a first start to the day after."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_studio.inference.sampling import answer
from tests.end_to_end.album import SIZES, THEMES
from tests.end_to_end.conftest import Driven
from tests.end_to_end.outside import LLAMA, TRANSFORMERS, answers_of, exported
from tests.end_to_end.person import ROOT

pytestmark = pytest.mark.timeout(1200)  # the session is driven by the first test that asks for it
KEYS = {"queue", "urgency", "summary"}


def share_of(text: str) -> list[float]:
    """Read "0 of 16 → 16 of 16" as shares."""
    return [int(right) / int(of) for right, of in re.findall(r"(\d+) of (\d+)", text)]


def test_every_start_of_the_program_ended_by_itself(driven: Driven) -> None:
    assert driven.record.exits == [0, 0, 0]
    assert "Traceback" not in driven.record.errors
    assert "Fatal" not in driven.record.errors


def test_a_first_start_shows_the_starter_before_torch(driven: Driven) -> None:
    seen = driven.record.seen["first look"]
    assert seen["heavy"] == []
    assert seen["draft"] == "support-triage"
    assert seen["data"] == "messages · 320 rows · 0 bad"
    assert seen["cards"] == ["starter_card", "model_card", "data_card"]
    assert seen["targets"]["trainable"] == "921,600"
    assert seen["row"][0] == "self_attn"


def test_start_lights_once_the_base_model_is_ready(driven: Driven) -> None:
    seen = driven.record.seen["ready"]
    assert seen["start"] == "Start"
    assert "134,515,008 parameters" in seen["facts"]
    assert "30 layers" in seen["facts"]


def test_unticking_a_layer_moves_the_counts_and_undo_brings_it_back(driven: Driven) -> None:
    seen = driven.record.seen["untick"]
    assert seen["before"] == seen["after"]
    assert seen["before"]["trainable"] == "921,600"
    assert seen["without"]["trainable"] == "890,880"  # 921,600 less a thirtieth
    assert seen["without"]["budget"] != seen["before"]["budget"]


def test_the_run_bar_says_what_is_loaded_and_shows_answers_before_the_first_step(driven: Driven) -> None:
    seen = driven.record.seen["before samples"]
    assert seen["state"] in ("Waiting", "Loading")
    assert seen["settings"] == "r 8 · α 16"
    assert all(seen["answers"])


def test_pausing_says_so_and_closing_asks(driven: Driven) -> None:
    seen = driven.record.seen["pause"]
    assert seen["state"] == "Paused"
    assert seen["word"] == "pausing after this micro-batch"
    assert seen["question"] == ["Stop and save", "Keep running in a process", "Cancel"]


def test_r_edited_during_the_run_changes_the_draft_alone(driven: Driven) -> None:
    seen = driven.record.seen["edit meanwhile"]
    assert seen["draft_r"] == "16"
    assert seen["differs"] == "draft differs: 1"
    assert seen["settings"] == "r 8 · α 16"
    assert yaml.safe_load(seen["run_yaml"])["adapter"]["r"] == 8
    adapter = Path(driven.record.adapter)
    assert json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 8
    assert re.search(r"\br\b\D{1,12}8\b", (adapter / "README.md").read_text(encoding="utf-8"))


def test_the_starter_learns_to_answer_with_json(driven: Driven) -> None:
    seen = driven.record.seen["training"]
    before, after = share_of(seen["share"])
    assert before < 0.2
    assert after > 0.8
    assert seen["state"] == "Finished"
    assert seen["next"] == "Merge this run…"
    assert seen["settings"] == "r 8 · α 16"


def test_every_curve_has_a_point_a_step_and_memory_four_a_second(driven: Driven) -> None:
    seen = driven.record.seen["training"]
    steps = int(seen["step"].split("/")[1])
    curves = seen["curves"]
    assert curves["loss_plot"]["train"] == curves["loss_plot"]["smoothed"] == steps
    assert curves["grad_norm_plot"]["grad_norm"] == curves["tokens_per_second_plot"]["tokens_per_second"] == steps
    assert curves["loss_plot"]["eval"] >= 2
    events = [json.loads(line) for line in (Path(driven.record.run) / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    times = [event["time"] for event in events]
    assert curves["memory_plot"]["resident"] >= 0.9 * 4 * (times[-1] - times[0]) - 4


def test_the_merge_passed_and_plain_transformers_answers_with_json(driven: Driven) -> None:
    seen = driven.record.seen["merge"]
    assert seen["export_run"] == f"{Path(driven.record.run).name} · r 8 · α 16"
    assert seen["export_base"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert seen["verdict"].startswith("Passed: largest logit difference")
    assert seen["open"]
    assert seen["lines"].startswith("from transformers import")
    merged = Path(driven.record.merged)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert _answers_with_json(model, tokenizer)


def test_the_exported_adapter_loads_in_plain_peft_and_answers_with_json(driven: Driven, starter_folder: Path) -> None:
    assert driven.record.seen["export"]["verdict"].startswith("Passed")
    base = AutoModelForCausalLM.from_pretrained(starter_folder)
    model = PeftModel.from_pretrained(base, driven.record.adapter)
    assert _answers_with_json(model, AutoTokenizer.from_pretrained(starter_folder))


def _answers_with_json(model: object, tokenizer: object) -> bool:
    asked = "The parcel says delivered but my porch is empty."
    turns = [{"role": "system", "content": _system_message()}, {"role": "user", "content": asked}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]  # type: ignore[attr-defined]
    found = json.loads(answer(model, tokenizer, [ids], 64)[0])  # type: ignore[arg-type]
    return set(found) == KEYS


def _system_message() -> str:
    first = (ROOT / "resources" / "starter" / "support_triage.jsonl").read_text(encoding="utf-8").splitlines()[0]
    turn = json.loads(first)["messages"][0]
    return turn["content"] if turn["role"] == "system" else ""


def test_adapter_merged_model_and_both_gguf_files_answer_alike_in_the_programs_they_are_for(
    driven: Driven, starter_folder: Path, converter_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    tools = driven.home / "cache" / "tools"
    tools.mkdir(exist_ok=True)
    (tools / converter_folder.name).symlink_to(converter_folder, target_is_directory=True)
    starter = str(starter_folder)
    by_peft = answers_of(TRANSFORMERS, tmp_path, model=starter, tokenizer=starter, adapter=driven.record.adapter)
    merged = exported(driven, "merged", tmp_path / "merged", "--dtype", "float32")
    by_transformers = answers_of(TRANSFORMERS, tmp_path, model=str(merged), tokenizer=str(merged))
    (gguf,) = exported(driven, "gguf", tmp_path / "gguf", "--quantize", "f32").glob("*.gguf")
    by_llama = answers_of(LLAMA, tmp_path, model=str(gguf))
    assert by_peft == by_transformers == by_llama
    for text in by_peft:
        assert set(json.loads(text)) == {"queue", "urgency", "summary"}
    (adapter,) = exported(driven, "gguf-adapter", tmp_path / "gguf-adapter").glob("*.gguf")
    base_file = tmp_path / "base.gguf"
    script = str(converter_folder / "convert_hf_to_gguf.py")
    subprocess.run(
        [sys.executable, script, str(starter_folder), "--outfile", str(base_file), "--outtype", "f32"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(converter_folder)},
        capture_output=True,
    )
    assert answers_of(LLAMA, tmp_path, model=str(base_file), adapter=str(adapter)) == by_peft


def test_the_next_day_begins_where_the_last_one_ended(driven: Driven) -> None:
    seen = driven.record.seen["came back"]
    assert seen["page"] == "train"
    assert seen["draft_r"] == "16"
    assert "support-triage finished" in seen["banner"]


def test_a_finished_run_opens_from_disk_before_torch_and_stays_locked(driven: Driven) -> None:
    seen = driven.record.seen["reopened"]
    assert seen["heavy"] == []
    assert seen["rows"][0][:2] == ["support-triage", "finished"]
    assert seen["curves"]["loss_plot"] == driven.record.seen["training"]["curves"]["loss_plot"]
    assert seen["locked_r"]["text"] == "8"
    assert not seen["locked_r"]["enabled"]
    assert seen["share"] == driven.record.seen["training"]["share"]
    assert seen["can_merge"]


def test_a_new_run_from_this_makes_the_runs_settings_the_draft(driven: Driven) -> None:
    seen = driven.record.seen["new run from this"]
    assert (seen["before"], seen["r"]) == ("16", "8")


def test_the_yaml_view_is_the_draft(driven: Driven) -> None:
    assert yaml.safe_load(driven.record.seen["yaml"]["text"])["adapter"]["r"] == 16


def test_no_page_is_clipped_or_empty_at_any_size_in_either_theme(driven: Driven) -> None:
    pictures = {Path(picture.path).name: picture for picture in driven.record.pictures}
    wanted = {
        f"{page}_{theme}_{width}x{height}.png"
        for page in ("train_before", "train_finished", "before_after", "data", "runs")
        for theme in THEMES
        for width, height in SIZES
    }
    assert wanted <= set(pictures)
    assert {name: picture.clipped for name, picture in pictures.items() if picture.clipped} == {}
    assert all(picture.size == tuple(map(int, re.findall(r"(\d+)x(\d+)\.png", name)[0])) for name, picture in pictures.items())
    assert all(picture.shades > 20 for picture in pictures.values())


def test_the_command_line_sees_the_same_run(driven: Driven) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lora_studio", "runs", "--json"],
        cwd=ROOT,
        env=driven.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [Path(run["path"]).name for run in json.loads(done.stdout)["runs"]] == [Path(driven.record.run).name]


def test_no_secret_or_pickle_is_written(driven: Driven) -> None:
    files = [path for path in driven.home.rglob("*") if path.is_file() and "cache" not in path.relative_to(driven.home).parts]
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".pickle")]
