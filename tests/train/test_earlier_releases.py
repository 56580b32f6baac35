"""Run folders as earlier releases wrote them open, list, replay and go on. `tests/fixtures/runs-0.1.0` was made by 0.1.0."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.core.control import TaskContext
from lora_studio.core.events import RunResumed, Step
from lora_studio.core.files import sha256_of
from lora_studio.core.history import RunHistory
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from lora_studio.jobs.spec import JobSpec
from lora_studio.train.engine import train
from tests.tiny import save_tiny_model, write_chat_rows

RUNS = Path(__file__).parents[1] / "fixtures" / "runs-0.1.0"
WRITTEN_IN = "/tmp/example"  # where base model and rows lay when the runs were made

OLD_TASKS = [
    "lora_studio.data.lens:lens",
    "lora_studio.data.report:report",
    "lora_studio.export.arithmetic:combine",
    "lora_studio.export.hub:push",
    "lora_studio.export.imports:import_task",
    "lora_studio.export.llama_cpp:fetch_converter",
    "lora_studio.export.task:export",
    "lora_studio.generate.chat:chat",
    "lora_studio.gui.data_page.template_task:render",
    "lora_studio.gui.data_task:check",
    "lora_studio.gui.data_task:raw_line",
    "lora_studio.models.engine:load_engine",
    "lora_studio.models.inspect:inspect",
    "lora_studio.models.prepare:prepare",
    "lora_studio.train.engine:follow",
    "lora_studio.train.engine:train",
]


def brought_here(name: str, folder: Path) -> RunFolder:
    """A copy of a run, with its base model and rows made again where it says they are."""
    shutil.copytree(RUNS / name, folder / "runs" / name)
    save_tiny_model(folder / "base")
    write_chat_rows(folder / "rows.jsonl")
    run = folder / "runs" / name
    for file in (run / "run.yaml", run / "environment.json", *run.glob("checkpoints/*/state.json")):
        file.write_text(file.read_text().replace(WRITTEN_IN, str(folder)))
        manifest = file.with_name("manifest.json")
        if manifest.exists():
            old = sha256_of(RUNS / name / file.relative_to(run))
            manifest.write_text(manifest.read_text().replace(old, sha256_of(file)))
    return RunFolder.open(run)


def test_runs_of_0_1_0_are_listed_and_replayed(tmp_path: Path) -> None:
    shutil.copytree(RUNS, tmp_path / "runs")
    listed = {run.name: run for run in RunStore(tmp_path / "runs").list()}
    assert (listed["tiny"].state, listed["tiny"].steps, listed["tiny"].total_steps) == ("finished", 4, 4)
    assert (listed["stopped"].state, listed["stopped"].steps, listed["stopped"].total_steps) == ("stopped", 4, 12)
    history = RunHistory.replay(RUNS / "tiny" / "events.jsonl")
    assert list(history.loss.x) == [1, 2, 3, 4]
    assert len(history.samples) > 0


def test_the_adapter_of_a_run_of_0_1_0_opens() -> None:
    adapter = SavedAdapter.open(RUNS / "tiny" / "adapter")
    assert {name.rpartition(".")[2] for name in adapter.pairs} == {"q_proj", "v_proj"}


def test_a_stopped_run_of_0_1_0_goes_on_to_its_end(tmp_path: Path) -> None:
    run = brought_here("stopped", tmp_path)
    events = list(train(TaskContext(), str(run.path), resume=True))
    assert [event.from_step for event in events if isinstance(event, RunResumed)] == [4]
    assert [event.step for event in events if isinstance(event, Step)] == list(range(5, 13))
    assert events[-1].event == "run_finished"


@pytest.mark.parametrize("target", OLD_TASKS)
def test_a_task_by_the_name_that_0_1_0_gave_it_is_found(target: str) -> None:
    assert callable(JobSpec(target).resolve())
