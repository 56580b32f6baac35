"""Pushing an export to the Hub: one commit, with progress, that can be cancelled and never shows the token.

The token comes from the environment or the Hub's own store, and goes to huggingface_hub alone: no event, log line or error holds it.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.export.destination import CERTIFICATE_NAME, is_earlier_export
from lora_studio.export.push.hub_errors import LOG_IN, quiet_library, told_plainly
from lora_studio.export.push.upload_files import UploadFile, WatchedFile, files_to_upload
from lora_studio.hub.client import endpoint, hub_token, is_switched_offline
from lora_studio.hub.errors import UnreachableError
from lora_studio.hub.reach import CONNECT_SECONDS, why_unreachable

_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,95}")
_NAME = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_BRANCH = re.compile(r"(?!.*\.\.)(?!refs/)[A-Za-z0-9_][\w./-]{0,200}", re.ASCII)
_TELL_SECONDS = 0.1


def push(context: TaskContext, folder: str, repo_id: str, private: bool = True, revision: str | None = None) -> Iterator[RunEvent]:
    """Push an export to a model repository of the Hub, which is made where there is none. Other files there stay.

    Args:
        context: The host's; cancelled, nothing of the repository has changed.
        folder: An export of this program, with its certificate.
        repo_id: `OWNER/NAME`.
        private: Whether a repository that is made can be seen by its owner alone; one that is there already must not be public then.
        revision: The branch to commit to, made where it is missing; None for the main branch.

    Raises:
        InputError: Folder, name, token or leave are missing; nothing was uploaded.
        UnreachableError: The Hub cannot be reached, or is too busy.
        StudioError: The Hub answered otherwise.
    """
    path = Path(folder).expanduser().resolve()
    check_push(path, repo_id, revision)
    token = require_token()
    files, left = files_to_upload(path, token)
    _refuse_unreachable()
    yield Phase(name="uploading", message=f"Asking {endpoint()} for {repo_id}")
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), token=token, library_name="lora-studio")
    with told_plainly(repo_id, token), quiet_library():
        is_private = _ready_repository(api, repo_id, private=private, revision=revision)
        context.control.check()
        url, commit = yield from _upload(context, api, files, repo_id, revision)
    yield RunFinished(
        result={
            "url": url,
            "repo_id": repo_id,
            "commit": commit,
            "revision": revision or "main",
            "private": is_private,
            "files": [file.name for file in files],
            "left_out": left,
            "bytes": sum(file.size for file in files),
        }
    )


def check_push(folder: Path, repo_id: str, revision: str | None = None) -> None:
    """See that a folder is an export that passed, and that the repository's name is one. No network.

    Raises:
        InputError: One is not.
    """
    owner, _, name = repo_id.partition("/")
    if not (_OWNER.fullmatch(owner) and _NAME.fullmatch(name)):
        raise InputError(f"{repo_id!r} is no name of a repository.", "Give OWNER/NAME, such as my-name/my-adapter.", "repo_id")
    if revision is not None and not _BRANCH.fullmatch(revision):
        raise InputError(f"{revision!r} is no name of a branch.", "Give a plain name, or leave it out for the main branch.", "revision")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Give the folder of an export.", "folder")
    if not is_earlier_export(folder):
        raise InputError(
            f"{folder} is no export of LoRA Studio: it has no {CERTIFICATE_NAME} of ours.", "Export first: `lora-studio export`.", "folder"
        )
    certificate: dict[str, Any] = json.loads((folder / CERTIFICATE_NAME).read_text(encoding="utf-8"))
    if certificate.get("passed") is not True:
        reason = str(certificate.get("reason") or "it does not say why")
        raise InputError(f"{folder} did not pass its certificate: {reason}.", "Export it again, as an adapter or in float32.", "folder")


def require_token() -> str:
    """Return the Hub token.

    Raises:
        InputError: There is none, or the Hub is switched off.
    """
    if is_switched_offline():
        raise InputError("The Hub is switched off.", "Take HF_HUB_OFFLINE out of the environment to push.", "repo_id")
    token = hub_token()
    if not token:
        raise InputError("There is no Hub token on this machine.", LOG_IN, "repo_id")
    return token


def _refuse_unreachable() -> None:
    if reason := why_unreachable(endpoint(), CONNECT_SECONDS):
        raise UnreachableError(f"The Hub ({endpoint()}) cannot be reached: {reason}.", "Check the network, then push again.", "repo_id")


def _ready_repository(api: Any, repo_id: str, *, private: bool, revision: str | None) -> bool:
    """Make repository and branch where they are missing, and say whether the repository is private.

    Raises:
        InputError: It is there and public, while a private one was asked for.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    info: Any = None
    with contextlib.suppress(RepositoryNotFoundError):
        info = api.model_info(repo_id)
    if info is None:
        api.create_repo(repo_id, private=private, repo_type="model", exist_ok=True)
        info = api.model_info(repo_id)
    is_private = bool(info.private)
    if private and not is_private:
        raise InputError(f"{repo_id} is there already, and everyone can see it.", "Push with --public, or to another name.", "repo_id")
    if revision is not None and revision != "main":
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return is_private


def _upload(
    context: TaskContext, api: Any, files: list[UploadFile], repo_id: str, revision: str | None
) -> Generator[RunEvent, None, tuple[str, str]]:
    """Upload the large files one after the other, then commit all at once; before the commit nothing can be seen."""
    from huggingface_hub import CommitOperationAdd

    total = sum(file.size for file in files)
    done = 0
    operations: list[CommitOperationAdd] = []
    with contextlib.ExitStack() as opened:
        for file in files:
            yield Phase(name="uploading", message=f"Uploading {file.name}", done=done, total=total, unit="bytes")
            source: Any = file.content
            if source is None:
                source = opened.enter_context(WatchedFile(file.path, _progress(context, file, done, total)))
            operation = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=source)
            api.preupload_lfs_files(repo_id, additions=[operation], revision=revision, free_memory=False)
            operations.append(operation)
            done += file.size
        context.control.check()
        yield Phase(name="uploading", message="Committing", done=done, total=total, unit="bytes")
        context.control.check()
        commit = api.create_commit(repo_id, operations=operations, commit_message="Upload with LoRA Studio", revision=revision)
    return f"{endpoint()}/{repo_id}", str(commit.oid)


def _progress(context: TaskContext, file: UploadFile, before: int, total: int) -> Callable[[int], None]:
    """Return what a file calls while it is read, for its hash and to be sent: it tells how far that is, and ends it when asked to."""
    told = 0.0

    def look(position: int) -> None:
        nonlocal told
        context.control.check()
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            context.post(
                Phase(name="uploading", message=f"Uploading {file.name}", done=before + min(position, file.size), total=total, unit="bytes")
            )

    return look
