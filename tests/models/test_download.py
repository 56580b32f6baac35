from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import Phase, RunFinished
from lora_studio.hub.cache import hub_cache_folder
from lora_studio.models.prepare import prepare
from lora_studio.models.sources import find_model, local_models
from tests.models.fake_hub import COMMIT, REPO, FakeHub, files_of, running_hub, stop_past


def download(revision: str | None = None, repo: str = REPO) -> Path:
    *_, last = prepare(TaskContext(), repo, revision)
    assert isinstance(last, RunFinished)
    return Path(last.result["path"])


def parts() -> list[Path]:
    return list(hub_cache_folder().rglob("*.part"))


def test_downloaded_folder_holds_the_hub_files_and_no_code_or_pickle(hub: FakeHub) -> None:
    folder = download()
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert (folder / "tokenizer.json").read_bytes() == hub.files["tokenizer.json"]
    assert not {"pytorch_model.bin", "modeling_own.py"} & {path.name for path in folder.iterdir()}
    assert not hub.asked_for(".bin")
    assert not parts()


def test_downloaded_model_is_found_in_the_cache_without_asking_again(hub: FakeHub) -> None:
    assert find_model(REPO).needs == "download"
    folder = download()
    asked = len(hub.requests)
    source = find_model(REPO)
    assert (source.kind, source.path, source.commit, source.ready) == ("hub_cache", folder, COMMIT, True)
    assert REPO in [model.name for model in local_models()]
    assert download() == folder
    assert len(hub.requests) == asked


def test_huggingface_hub_finds_the_downloaded_files_in_its_cache(hub: FakeHub) -> None:
    from huggingface_hub import try_to_load_from_cache

    folder = download()
    assert try_to_load_from_cache(REPO, "config.json", cache_dir=hub_cache_folder()) == str(folder / "config.json")


def test_progress_reaches_the_total_and_never_falls(hub: FakeHub) -> None:
    phases = [event for event in prepare(TaskContext(), REPO) if isinstance(event, Phase) and event.total]
    weights = [phase for phase in phases if "model.safetensors" in phase.message]
    assert [phase.done for phase in weights] == sorted(phase.done or 0 for phase in weights)
    assert phases[-1].done == phases[-1].total
    assert phases[-1].total == sum(len(hub.files[path.name]) for path in find_model(REPO).path.iterdir())  # type: ignore[union-attr]


def test_cancel_keeps_the_started_file_and_the_next_try_goes_on_from_it(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.models.download._BLOCK", 4096)
    monkeypatch.setattr("lora_studio.models.download._PROGRESS_SECONDS", 0.0)
    context = TaskContext()
    small = sum(len(content) for name, content in hub.files.items() if name.endswith((".json", ".jinja")))
    with pytest.raises(Cancelled):
        stop_past(prepare(context, REPO), context, small + 20_000)
    (part,) = parts()
    kept = part.stat().st_size
    assert 20_000 < kept < len(hub.files["model.safetensors"])
    assert find_model(REPO).needs == "download"
    folder = download()
    assert hub.asked_for("model.safetensors")[-1].range == f"bytes={kept}-"
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert len(hub.asked_for("tokenizer.json")) == 1


def test_broken_connection_is_taken_up_again_where_it_broke(hub: FakeHub) -> None:
    hub.cut_after, hub.cuts = 50_000, 2
    folder = download()
    assert [request.range for request in hub.asked_for("model.safetensors")] == ["", "bytes=50000-", "bytes=100000-"]
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_server_without_ranges_sends_the_file_afresh(hub: FakeHub) -> None:
    hub.cut_after, hub.cuts, hub.ignores_ranges = 50_000, 1, True
    assert (download() / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_connection_that_keeps_breaking_is_an_error_that_keeps_what_came(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.models.download._pause", lambda _context, _seconds: None)
    hub.cut_after, hub.cuts = 0, 99
    with pytest.raises(StudioError, match=r"broke off in model\.safetensors") as caught:
        download()
    assert "go on from there" in caught.value.hint
    assert caught.value.exit_status == 1


def test_damaged_file_is_fetched_again(hub: FakeHub) -> None:
    hub.damages = 1
    assert (download() / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert len(hub.asked_for("model.safetensors")) == 2


def test_file_that_keeps_coming_damaged_is_never_given_its_name(hub: FakeHub) -> None:
    hub.damages = 99
    with pytest.raises(StudioError, match="keeps coming damaged"):
        download()
    assert find_model(REPO).needs == "download"
    assert not parts()


def test_gated_model_is_said_plainly(hub: FakeHub) -> None:
    hub.needs_token = "hf_secret"
    with pytest.raises(InputError, match="is gated") as caught:
        download()
    assert f"{hub.address}/{REPO}" in caught.value.hint


def test_token_of_the_environment_opens_a_gated_model_and_is_shown_nowhere(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.needs_token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    told = [event.model_dump_json() for event in prepare(TaskContext(), REPO)]
    assert not any("hf_secret" in line for line in told)


def test_token_of_the_hubs_own_store_is_used(hub: FakeHub, hub_home: Path) -> None:
    hub.needs_token = "hf_stored"
    hub_home.mkdir()
    (hub_home / "token").write_text("hf_stored\n", encoding="utf-8")
    assert download().is_dir()


def test_token_is_not_sent_on_to_the_storage_host(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running_hub(FakeHub(hub.files)) as storage:
        hub.redirect_to = storage.address
        folder = download()
        assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
        assert [request.authorization for request in storage.requests] == [""]
    assert all(request.authorization == "Bearer hf_secret" for request in hub.requests)


def test_redirected_file_goes_on_where_it_broke(hub: FakeHub) -> None:
    with running_hub(FakeHub(hub.files, cut_after=60_000, cuts=1)) as storage:
        hub.redirect_to = storage.address
        assert (download() / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
        assert [request.range for request in storage.requests] == ["", "bytes=60000-"]


def test_offline_is_said_with_the_host_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(StudioError, match=r"127\.0\.0\.1:9.* cannot be reached") as caught:
        download()
    assert "on this machine" in caught.value.hint


def test_silent_host_counts_as_offline_within_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as silent:  # listens, accepts nothing, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("lora_studio.hub.client.CONNECT_SECONDS", 0.3)
        with pytest.raises(StudioError, match="cannot be reached"):
            download()


def looks_for_long(*_arguments: object, **_options: object) -> None:
    time.sleep(1)
    raise OSError("no answer")


def test_resolver_that_never_answers_counts_as_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("lora_studio.hub.client.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("socket.getaddrinfo", looks_for_long)
    with pytest.raises(StudioError, match="does not answer"):
        download()


def test_hub_switched_off_is_said_as_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="switched off") as caught:
        download()
    assert "HF_HUB_OFFLINE" in caught.value.hint


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("nobody/nothing", None, "has no model nobody/nothing"),
        (REPO, "old-branch", "has no revision old-branch"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: FakeHub, repo: str, revision: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        download(revision, repo)


def test_sick_hub_is_no_fault_of_the_input(hub: FakeHub) -> None:
    hub.status = 503
    with pytest.raises(StudioError, match="answered 503") as caught:
        download()
    assert caught.value.exit_status == 1


def test_pickled_weights_are_refused_before_anything_is_fetched(hub: FakeHub) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(InputError, match=r"only as pytorch_model\.bin"):
        download()
    assert not hub.asked_for("config.json")


def test_adapter_on_the_hub_is_no_base_model(hub: FakeHub) -> None:
    hub.files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b""}
    with pytest.raises(InputError, match=r"no config\.json") as caught:
        download()
    assert "base model it was made for" in caught.value.hint


def test_config_that_asks_for_code_is_refused_before_the_weights(hub: FakeHub) -> None:
    config = json.loads(hub.files["config.json"])
    hub.files["config.json"] = json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}).encode()
    with pytest.raises(InputError, match="auto_map"):
        download()
    assert not hub.asked_for("model.safetensors")


@pytest.mark.parametrize("method", ["hqq", "quanto", "torchao"])
def test_weights_quantized_in_a_way_that_is_not_read_here_are_not_fetched(hub: FakeHub, method: str) -> None:
    if method == "quanto":
        hub.files["quanto_qmap.json"] = b"{}"
    else:
        config = json.loads(hub.files["config.json"])
        hub.files["config.json"] = json.dumps({**config, "quantization_config": {"quant_method": method}}).encode()
    hub.files["README.md"] = b"---\nbase_model: somebody/whole\n---\n"
    with pytest.raises(InputError, match=f"(?i)quantized by {method} are not read here") as caught:
        download()
    assert caught.value.hint == "Choose the model in full precision, somebody/whole."
    assert not hub.asked_for("model.safetensors")


def test_sharded_model_is_fetched_by_its_index(hub: FakeHub, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_model("llama")).save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    del hub.files["model.safetensors"]
    hub.files |= {**files_of(tmp_path / "sharded"), "consolidated.safetensors": b"not asked for"}
    folder = download()
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    assert not hub.asked_for("consolidated.safetensors")
    next(iter(sorted(folder.glob("model-*.safetensors")))).unlink()
    assert find_model(REPO).needs == "download"


def test_commit_can_be_asked_for_by_its_hash(hub: FakeHub) -> None:
    folder = download(COMMIT)
    assert folder.name == COMMIT
    assert find_model(REPO, COMMIT).ready


def test_cache_that_cannot_be_written_is_named(hub: FakeHub, hub_home: Path) -> None:
    hub_home.write_text("a file where the cache's folder should be", encoding="utf-8")
    with pytest.raises(InputError, match="Cannot write to"):
        download()


def test_second_download_of_the_same_model_is_refused(hub: FakeHub) -> None:
    from lora_studio.core.locks import lock_file, unlock_file
    from lora_studio.hub.cache import repo_folder

    repo_folder(REPO).mkdir(parents=True)
    lock = lock_file(repo_folder(REPO) / ".lora-studio.lock")
    assert lock is not None
    with pytest.raises(StudioError, match="being downloaded already"):
        download()
    unlock_file(lock)
