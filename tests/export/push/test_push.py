"""Pushing to the Hub, against a small one on loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.export.push.push import push
from lora_studio.export.push.upload_files import WatchedFile, files_to_upload
from lora_studio.hub.errors import UnreachableError
from tests.export.handmade import write_adapter
from tests.models.fake_hub import FakeHub, running_hub
from tests.models.fake_uploads import Repository, Uploads

TOKEN = "hf_" + "Canary0" * 5
REPO = "somebody/triage"
CERTIFICATE: dict[str, Any] = {
    "verdict": "exact",
    "rows": 2,
    "rows_from": "general text",
    "tensors_checked": 4,
    "passed": True,
    "reason": "",
}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of a person who may go online, has a token, and is reached by no proxy."""
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
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub_home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploads]:
    """A hub that takes uploads of the token's owner."""
    taking = Uploads(TOKEN)
    with running_hub(FakeHub({}, uploads=taking)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield taking


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An exported adapter with its tokenizer_files."""
    folder = write_adapter(tmp_path / "export")
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n\n# triage\n", encoding="utf-8")
    (folder / "certificate.json").write_text(json.dumps(CERTIFICATE), encoding="utf-8")
    return folder


def pushed(folder: Path, repo_id: str = REPO, context: TaskContext | None = None, **arguments: Any) -> dict[str, Any]:
    events: list[RunEvent] = list(push(context or TaskContext(), str(folder), repo_id, **arguments))
    return events[-1].result  # type: ignore[union-attr]


def test_an_export_becomes_a_private_repository_with_its_files_in_one_commit(uploads: Uploads, export: Path) -> None:
    told = pushed(export)
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "certificate.json"}
    assert uploads.files(REPO).keys() == names == set(told["files"])
    assert uploads.files(REPO)["adapter_model.safetensors"] == (export / "adapter_model.safetensors").read_bytes()
    assert uploads.repositories[REPO].private
    assert len(uploads.repositories[REPO].commits) == 1
    assert (told["url"], told["private"], told["left_out"]) == (f"{uploads.address}/{REPO}", True, [])


def test_public_is_said_where_it_is_wanted(uploads: Uploads, export: Path) -> None:
    assert pushed(export, private=False)["private"] is False
    assert not uploads.repositories[REPO].private


def test_a_repository_with_other_content_keeps_it(uploads: Uploads, export: Path) -> None:
    uploads.repositories[REPO] = Repository(private=True, branches={"main": {"notes.txt": b"mine", "README.md": b"old"}})
    pushed(export)
    assert uploads.files(REPO)["notes.txt"] == b"mine"
    assert uploads.files(REPO)["README.md"] == (export / "README.md").read_bytes()


def test_a_private_push_to_a_public_repository_is_refused(uploads: Uploads, export: Path) -> None:
    uploads.repositories[REPO] = Repository(private=False)
    with pytest.raises(InputError, match="everyone can see it"):
        pushed(export)
    assert uploads.files(REPO) == {}


def test_a_branch_is_made_where_it_is_missing(uploads: Uploads, export: Path) -> None:
    assert pushed(export, revision="v2")["revision"] == "v2"
    assert uploads.files(REPO) == {}
    assert "README.md" in uploads.files(REPO, "v2")


def test_the_same_export_pushed_again_sends_no_large_file(uploads: Uploads, export: Path) -> None:
    pushed(export)
    weights = (export / "adapter_model.safetensors").read_bytes()
    uploads.bodies.clear()
    pushed(export)
    assert weights not in uploads.bodies


def test_a_token_of_the_hubs_own_store_will_do(uploads: Uploads, export: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="no Hub token on this machine"):
        pushed(export)
    (tmp_path / "hub_home").mkdir()
    (tmp_path / "hub_home" / "token").write_text(f"{TOKEN}\n")
    assert pushed(export)["repo_id"] == REPO


@pytest.mark.parametrize(
    ("spoil", "kind", "told"),
    [
        (lambda uploads: setattr(uploads, "token", "hf_other"), InputError, "refuses the token"),
        (lambda uploads: setattr(uploads, "owner", "another"), InputError, "does not let this token write to somebody/triage"),
        (lambda uploads: uploads.fails.update({"/api/repos/create": 403}), InputError, "does not let this token write"),
        (lambda uploads: uploads.fails.update({"/commit/main": 403}), InputError, "does not let this token write"),
        (lambda uploads: uploads.fails.update({"/commit/main": 500}), UnreachableError, r"out of order \(500\)"),
        (lambda uploads: uploads.fails.update({"/commit/main": 413}), StudioError, r"\(413\)"),
        (lambda uploads: uploads.fails.update({"objects/batch": 403}), InputError, "does not let this token write"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(
    spoil: Callable[[Uploads], None], kind: type[StudioError], told: str, uploads: Uploads, export: Path
) -> None:
    spoil(uploads)
    uploads.message = f"because of {TOKEN}"
    with pytest.raises(kind, match=told) as raised:
        pushed(export)
    assert raised.value.hint
    assert TOKEN not in str(raised.value)
    assert raised.value.__cause__ is None
    assert all("README.md" not in repository.branches["main"] for repository in uploads.repositories.values())


def test_a_store_that_does_not_take_the_weights_is_told(uploads: Uploads, export: Path) -> None:
    digest = hashlib.sha256((export / "adapter_model.safetensors").read_bytes()).hexdigest()
    uploads.fails[digest] = 403
    with pytest.raises(InputError, match="does not let this token write"):
        pushed(export)


def test_offline_is_said_before_anything_is_asked(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9\) cannot be reached"):
        pushed(export)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="switched off"):
        pushed(export)


@pytest.mark.parametrize(
    "name", ["triage", "a/b/c", "/triage", "some body/x", "somebody/", "somebody/..", "somebody/x.git", "-a/b", "a/b--c"]
)
def test_a_name_that_is_no_repository_is_refused(name: str, export: Path) -> None:
    with pytest.raises(InputError, match="no name of a repository"):
        pushed(export, name)


@pytest.mark.parametrize("branch", ["../main", "refs/pr/1", "a b", ""])
def test_a_branch_that_is_none_is_refused(branch: str, export: Path) -> None:
    with pytest.raises(InputError, match="no name of a branch"):
        pushed(export, revision=branch)


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no export of LoRA Studio"):
        pushed(write_adapter(tmp_path / "adapter"))
    with pytest.raises(InputError, match="no folder"):
        pushed(tmp_path / "nothing")


@pytest.mark.parametrize("changes", [{"passed": False, "reason": "logits differ"}, {"passed": None}, {"passed": "yes"}])
def test_an_export_that_did_not_pass_is_refused(changes: dict[str, Any], export: Path) -> None:
    (export / "certificate.json").write_text(json.dumps({**CERTIFICATE, **changes}), encoding="utf-8")
    with pytest.raises(InputError, match="did not pass its certificate"):
        pushed(export)


def test_only_what_an_export_consists_of_is_pushed(uploads: Uploads, export: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (export / "linked.txt").symlink_to(tmp_path / "secret.txt")
    for name in (".env", "training_args.bin", "notes.pdf"):
        (export / name).write_bytes(b"secret")
    (export / "more").mkdir()
    told = pushed(export)
    assert told["left_out"] == [".env", "linked.txt", "more", "notes.pdf", "training_args.bin"]
    assert not any(b"secret" in content for content in uploads.files(REPO).values())


def test_folders_of_this_machine_stay_here_and_the_certificate_fits_what_went_out(uploads: Uploads, export: Path, tmp_path: Path) -> None:
    write_adapter(export, base_model_name_or_path=str(tmp_path / "models" / "my-base"))
    before = hashlib.sha256((export / "adapter_config.json").read_bytes()).hexdigest()
    certificate = {**CERTIFICATE, "files": {"adapter_config.json": before}, "base": str(tmp_path / "models" / "my-base")}
    (export / "certificate.json").write_text(json.dumps(certificate), encoding="utf-8")
    pushed(export)
    there = uploads.files(REPO)
    assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == "my-base"
    assert not any(str(tmp_path).encode() in content for content in there.values())
    assert json.loads(there["certificate.json"])["files"]["adapter_config.json"] == hashlib.sha256(there["adapter_config.json"]).hexdigest()
    assert str(tmp_path) in (export / "adapter_config.json").read_text()  # for loading it here


def test_a_card_that_names_the_home_folder_is_refused(export: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "somebodys-home")
    (export / "README.md").write_text(f"see {tmp_path}/somebodys-home/plan.txt")
    with pytest.raises(InputError, match=r"README\.md names a folder of this machine"):
        pushed(export)


@pytest.mark.parametrize("secret", [TOKEN, "hf_" + "Z" * 34])
def test_a_file_that_holds_a_token_is_refused_without_repeating_it(secret: str, export: Path) -> None:
    (export / "README.md").write_text(f"token: {secret}")
    with pytest.raises(InputError, match=r"README\.md holds a Hub token") as raised:
        pushed(export)
    assert secret not in str(raised.value)


def test_a_push_cancelled_while_a_file_is_read_commits_nothing(uploads: Uploads, export: Path) -> None:
    context = TaskContext()
    posted: list[Phase] = []

    def stop(event: Phase) -> None:
        posted.append(event)
        context.control.stop()

    context.post = stop
    with pytest.raises(Cancelled):
        pushed(export, context=context)
    assert posted[0].message == "Uploading adapter_model.safetensors"
    assert uploads.files(REPO) == {}


def test_a_push_cancelled_while_weights_are_sent_commits_nothing(uploads: Uploads, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = TaskContext()
    from huggingface_hub import lfs

    sound = lfs._upload_single_part

    def stop_first(**arguments: Any) -> None:
        context.control.stop()
        sound(**arguments)

    monkeypatch.setattr(lfs, "_upload_single_part", stop_first)
    with pytest.raises(Cancelled):
        pushed(export, context=context)
    assert uploads.stored == {}
    assert uploads.files(REPO) == {}


def test_progress_counts_bytes_up_to_all_of_them(uploads: Uploads, export: Path) -> None:
    assert uploads.token
    phases = [event for event in push(TaskContext(), str(export), REPO) if isinstance(event, Phase) and event.total]
    done = [phase.done for phase in phases]
    assert done == sorted(done)  # type: ignore[type-var]
    assert phases[-1].done == phases[-1].total == sum(file.size for file in files_to_upload(export, TOKEN)[0])


def test_a_watched_file_tells_how_far_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    told: list[int] = []
    with WatchedFile(tmp_path / "file", told.append) as file:
        assert (file.read(2), file.read()) == (b"12", b"345")
        file.seek(0)
        assert file.read(1) == b"1"
    assert told == [2, 5, 1]
