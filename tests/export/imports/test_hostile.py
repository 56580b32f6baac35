"""What hostile input must not do, and what must be found nowhere: the doors together, as a person goes through them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from lora_studio.cli.main import main
from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import RunEvent, event_to_json
from lora_studio.core.paths import studio_paths
from lora_studio.export.imports.importer import import_task
from lora_studio.export.push.push import push
from lora_studio.export.task import export
from tests.data.templates.template_styles import SLOW
from tests.export.adapters import make_adapter
from tests.export.handmade import write_adapter
from tests.models.fake_hub import FakeHub, running_hub
from tests.models.fake_uploads import Uploads
from tests.tiny import save_tiny_model, save_tiny_tokenizer, write_chat_rows

TOKEN = "hf_CANARYcanaryCANARYcanaryCANARYcanary"
HOME = "canary-home-of-a-person"

Tiny = Callable[[str], Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home with a name of its own, and a token in the environment."""
    folder = tmp_path / HOME
    folder.mkdir()
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name, value in (("HOME", folder), ("USERPROFILE", folder), ("HF_HOME", folder / "hub"), ("LORA_STUDIO_HOME", folder / "studio")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return folder


@pytest.fixture
def uploads(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploads]:
    assert home
    taking = Uploads(TOKEN)
    with running_hub(FakeHub({}, uploads=taking)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield taking


def finished_run(home: Path, rows: int = 12) -> Path:
    """Make the folder of a run whose base, data and adapter lie in a person's home."""
    base = save_tiny_model(home / "models" / "tiny-llama")
    data = write_chat_rows(home / "plans.jsonl", rows)
    run = home / "runs" / "triage"
    run.mkdir(parents=True)
    config = RunConfig(name="triage").replace(
        {"model.name_or_path": str(base), "data.train": (str(data),), "data.max_length": 64, "training.device": "cpu"}
    )
    write_config(run / "run.yaml", config)
    make_adapter(base, run / "adapter", target_modules=["q_proj", "v_proj"])
    record = {"files": [{"path": str(data), "rows": rows, "format": "messages"}], "tokens": {"total": 100, "trained": 20}}
    (run / "data.json").write_text(json.dumps(record), encoding="utf-8")
    (run / "events.jsonl").write_text("", encoding="utf-8")
    return run


def everything_told(events: Iterator[RunEvent], told: list[str], context: TaskContext) -> Any:
    """Go through a task, keep all it says, and give its result; None where it failed, its error kept too."""
    context.post = lambda event: told.append(event_to_json(event))
    last: Any = None
    try:
        for last in events:
            told.append(event_to_json(last))
    except StudioError as error:
        told += [str(error), repr(error), str(error.__cause__), str(error.__context__), error.field]
        return None
    return last.result


def run_task(task: Callable[..., Iterator[RunEvent]], told: list[str], **arguments: Any) -> Any:
    context = TaskContext()
    return everything_told(task(context, **arguments), told, context)


def test_token_and_home_are_found_in_nothing_that_was_written_told_or_sent(
    home: Path, uploads: Uploads, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    run = finished_run(home)
    archive = shutil.make_archive(str(home / "style"), "zip", run / "adapter")
    taken = run_task(import_task, told, path=archive)
    for source, kind in ((run, "adapter"), (run, "merged"), (taken["path"], "adapter")):
        target = home / "out" / f"{Path(source).name}-{kind}"
        assert run_task(export, told, source=str(source), kind=kind, to=str(target)) is not None
        assert run_task(push, told, folder=str(target), repo_id=f"somebody/{target.name}", private=False) is not None
        page = (target / "README.md").read_text(encoding="utf-8") + (target / "certificate.html").read_text(encoding="utf-8")
        assert HOME not in page
    for ending, status in (("/commit/main", 403), ("objects/batch", 403), ("/preupload/main", 400)):
        uploads.fails = {ending: status}
        assert run_task(push, told, folder=str(target), repo_id="somebody/refused") is None
    uploads.fails = {}
    assert main(["push", str(target), "another/name"], lambda _arguments: 0) == 2
    assert main(["push", str(target), "somebody/told", "--json"], lambda _arguments: 0) == 0

    out, err = capfd.readouterr()
    assert out
    said = "\n".join([*told, out, err, caplog.text, *(str(record.__dict__) for record in caplog.records)])
    assert TOKEN not in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 30
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    sent = [*uploads.bodies, *(content for repo in uploads.repositories.values() for content in repo.branches["main"].values())]
    assert sum(len(body) for body in sent) > 100_000
    for secret in (TOKEN, HOME):
        assert not any(secret.encode() in body for body in sent), secret


def test_an_error_that_was_not_foreseen_shows_no_token(
    home: Path, uploads: Uploads, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(home / "export")
    (folder / "certificate.json").write_text(json.dumps({"verdict": "exact", "rows_from": "x", "tensors_checked": 1, "passed": True}))

    def fail(self: Any, *_arguments: Any, **_named: Any) -> None:
        raise RuntimeError(f"something else, of {type(self).__name__}")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    assert main(["push", str(folder), "somebody/x"], lambda _arguments: 0) == 1
    out, err = capfd.readouterr()
    assert "something else, of HfApi" in err
    assert uploads.token not in out + err


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_base_whose_chat_template_is_too_slow_does_not_hold_up_an_export(kind: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(home)
    sound = run_task(export, [], source=str(run), kind=kind, to=str(home / "before"))
    assert sound["certificate"]["rows_from"] == "held-out rows of the run"
    save_tiny_tokenizer(home / "models" / "tiny-llama", SLOW)
    monkeypatch.setattr("lora_studio.data.templates.template.BLOCK_SECONDS", 0.05)
    monkeypatch.setattr("lora_studio.data.templates.template.ROW_SECONDS", 0.02)
    told: list[str] = []
    result = run_task(export, told, source=str(run), kind=kind, to=str(home / "out"))
    assert result["certificate"]["rows_from"] == "general text, since the run's own rows cannot be used"
    assert any("not on the run's held-out rows: " in line and "chat template" in line for line in told)


def test_an_adapter_whose_chat_template_is_too_slow_is_imported_and_exported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.data.templates.template.BLOCK_SECONDS", 0.05)
    monkeypatch.setattr("lora_studio.data.templates.template.ROW_SECONDS", 0.02)
    base = save_tiny_model(home / "models" / "tiny-llama")
    adapter = make_adapter(base, home / "style", target_modules=["q_proj"])
    save_tiny_tokenizer(adapter, SLOW)
    taken = run_task(import_task, [], path=str(adapter))
    assert run_task(export, [], source=taken["path"], kind="merged", to=str(home / "out"))["certificate"]["passed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}},
        {"_attn_implementation_internal": "evil/kernel"},
        {"attn_implementation": "evil/kernel"},
    ],
)
def test_a_base_that_asks_for_code_is_refused_by_import_and_export(changes: dict[str, Any], home: Path) -> None:
    base = save_tiny_model(home / "models" / "tiny-llama")
    adapter = make_adapter(base, home / "style", target_modules=["q_proj"])
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=r"asks for (code|a kernel)"):
        list(import_task(TaskContext(), str(adapter)))
    with pytest.raises(InputError, match=r"asks for (code|a kernel)"):
        list(export(TaskContext(), str(adapter), "merged", str(home / "out")))
    assert not (home / "out").exists()
    assert not studio_paths().adapters.exists() or not list(studio_paths().adapters.iterdir())
