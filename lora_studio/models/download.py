"""Download a Hub model into the Hub's cache: with progress, cancel, and going on where it stopped.

huggingface_hub starts an interrupted file at byte 0 again and takes half a minute to say it is offline, so files are fetched
here, into its layout: `hf`, transformers and the studio share what is there. Only safetensors and the small files beside them
are taken, never pickled weights or code. Every file is checked against the hash the Hub lists.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.core.files import write_atomically
from lora_studio.core.locks import lock_file, unlock_file
from lora_studio.hub.cache import DEFAULT_REVISION, is_commit, repo_folder
from lora_studio.hub.client import ask_json, endpoint, file_address, is_switched_offline, model_address, open_address
from lora_studio.hub.errors import UnreachableError
from lora_studio.models.check import FIELD, INDEX_NAME, WEIGHTS_NAME, check_folder, read_json, read_model_config, weight_files
from lora_studio.models.errors import IncompleteModelError
from lora_studio.models.full_precision import full_precision_of
from lora_studio.models.quantization import NONE
from lora_studio.models.quantized_folders import QUANTO_MAP, folder_quantization
from lora_studio.models.stored_quantization import stored_finding

_SMALL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        INDEX_NAME,
        QUANTO_MAP,
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
        "chat_template.json",
        "preprocessor_config.json",
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "LICENSE.md",
    }
)
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BLOCK = 1 << 18
_TRIES = 5
_PROGRESS_SECONDS = 0.1


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class HubFile:
    """One file of a Hub model: its size in bytes and the hash it is stored under (SHA-256, or git's SHA-1 of small files)."""

    name: str
    size: int
    etag: str

    def digest(self) -> _Digest:
        """Start the hash that must come out as `etag`."""
        if len(self.etag) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)  # git's name of a blob


@dataclass(frozen=True)
class HubModel:
    """A Hub model at one commit."""

    repo_id: str
    revision: str
    commit: str
    files: dict[str, HubFile]

    @property
    def blobs(self) -> Path:
        """Folder of the cache that holds file contents by their hash."""
        return repo_folder(self.repo_id) / "blobs"

    @property
    def snapshot(self) -> Path:
        """Folder of the cache that holds the files by their names."""
        return repo_folder(self.repo_id) / "snapshots" / self.commit


@dataclass
class _Progress:
    """How many bytes are there, of how many; told at most every so often."""

    done: int = 0
    total: int = 0
    told: float = 0.0

    def phase(self, name: str) -> Phase:
        self.told = time.monotonic()
        return Phase(name="downloading", message=f"Downloading {name}", done=self.done, total=self.total, unit="bytes")

    @property
    def due(self) -> bool:
        return time.monotonic() - self.told > _PROGRESS_SECONDS


def download_model(repo_id: str, revision: str | None, context: TaskContext) -> Generator[RunEvent, None, Path]:
    """Download what is missing of a Hub model, and return its folder in the Hub's cache.

    Args:
        repo_id: Such as `HuggingFaceTB/SmolLM2-135M-Instruct`.
        revision: Branch, tag or commit; None for the main branch.
        context: Its control cancels between blocks; finished files and the started one are kept.

    Raises:
        InputError: The model is gated, private, not there, or one we do not load.
        StudioError: The Hub cannot be reached, the disk is full, or a file keeps coming damaged.
        Cancelled: A person asked to stop.
    """
    if is_switched_offline():
        hint = "Take HF_HUB_OFFLINE out of the environment, or choose a model that is on this machine."
        raise InputError(f"{repo_id} is not on this machine, and the Hub is switched off.", hint, FIELD)
    yield Phase(name="downloading", message=f"Asking {endpoint()} for {repo_id}")
    model = describe(repo_id, revision or DEFAULT_REVISION)
    refuse_unusable(model)
    _make_folders(model)
    lock = lock_file(repo_folder(repo_id) / ".lora-studio.lock")
    if lock is None:
        raise StudioError(f"{repo_id} is being downloaded already.", "Wait for the other download, or cancel it.", FIELD)
    try:
        yield from _download(model, context)
    finally:
        unlock_file(lock)
    return model.snapshot


def describe(repo_id: str, revision: str) -> HubModel:
    """Ask the Hub what a model's files are at a revision."""
    answer = ask_json(model_address(repo_id, revision), repo_id, revision)
    try:
        commit = str(answer["sha"])
        files = {file.name: file for file in map(_hub_file, answer["siblings"])}
    except (TypeError, KeyError, ValueError) as error:
        raise StudioError(f"{endpoint()} described {repo_id} in a way that is not the Hub's.", "Check HF_ENDPOINT.", FIELD) from error
    if not is_commit(commit):
        raise StudioError(f"{endpoint()} gave no commit of {repo_id}.", "Check HF_ENDPOINT.", FIELD)
    return HubModel(repo_id, revision, commit, files)


def _hub_file(sibling: Any) -> HubFile:
    large: dict[str, Any] = sibling.get("lfs") or {}
    etag = str(large.get("sha256") or sibling.get("blobId") or "")
    if not _HASH.fullmatch(etag):
        raise ValueError("a file without its hash")
    return HubFile(str(sibling["rfilename"]), int(large.get("size") or sibling.get("size") or 0), etag)


def refuse_unusable(model: HubModel) -> None:
    """Refuse, before anything is fetched, a model without config or safetensors."""
    names = set(model.files)
    if "config.json" not in names:
        hint = "Choose the base model it was made for." if "adapter_config.json" in names else "Choose a transformers model."
        if any(name.endswith(".gguf") for name in names):
            hint = "Download one of its .gguf files and choose that, or choose the model it was made from."
        raise InputError(f"{model.repo_id} has no config.json.", hint, FIELD)
    if WEIGHTS_NAME in names or INDEX_NAME in names:
        return
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".h5")))
    what = f"only as {pickled[0]}, a format that can run code when it is read" if pickled else "in no form we load"
    hint = "Choose a safetensors version of it: many have one at the revision refs/pr/1."
    raise InputError(f"{model.repo_id} has its weights {what}.", hint, FIELD)


def _download(model: HubModel, context: TaskContext) -> Iterator[RunEvent]:
    """Fetch the small files, look at them, then the weights; the revision is noted last, when all is there."""
    small = [model.files[name] for name in sorted(model.files) if name in _SMALL_FILES]
    yield from _fetch_all(model, small, context, _Progress(total=sum(file.size for file in small)))
    _refuse_unread(model)
    weights = _weights(model)
    _check_disk(model, weights)
    progress = _Progress(done=sum(file.size for file in small), total=sum(file.size for file in (*small, *weights)))
    yield from _fetch_all(model, weights, context, progress)
    check_folder(model.snapshot)
    if not is_commit(model.revision):
        write_atomically(repo_folder(model.repo_id) / "refs" / model.revision, model.commit)


def _refuse_unread(model: HubModel) -> None:
    """Refuse, before the weights are fetched, a model whose weights are quantized in a way that is not read here."""
    stored = folder_quantization(model.snapshot, read_model_config(model.snapshot), {})
    if stored is not None and stored.unread:
        named = full_precision_of(model.repo_id, model.snapshot)
        refused = stored_finding(replace(stored, full_precision=named), NONE, "cpu")
        assert refused is not None
        raise refused.as_error()


def _weights(model: HubModel) -> list[HubFile]:
    """Name the weight files: the single one, or the shards of the index that was just fetched."""
    if WEIGHTS_NAME in model.files:
        return [model.files[WEIGHTS_NAME]]
    try:
        names = [path.name for path in weight_files(model.snapshot)]
    except IncompleteModelError:  # the shards are still to come
        names = sorted({str(name) for name in read_json(model.snapshot / INDEX_NAME)["weight_map"].values()})
    missing = [name for name in names if name not in model.files]
    if missing:
        raise InputError(f"{model.repo_id} lacks {missing[0]}, which its index names.", "Choose another revision of the model.", FIELD)
    return [model.files[name] for name in names]


def _fetch_all(model: HubModel, files: list[HubFile], context: TaskContext, progress: _Progress) -> Iterator[RunEvent]:
    for file in files:
        place = model.snapshot / file.name
        if not place.is_file():
            yield from _fetch(model, file, context, progress)
            _link(model.blobs / file.etag, place)
        else:
            progress.done += file.size
        yield progress.phase(file.name)


def _fetch(model: HubModel, file: HubFile, context: TaskContext, progress: _Progress) -> Iterator[RunEvent]:
    """Fetch one file into the blobs, going on from what an earlier attempt left; a broken connection is taken up again."""
    blob, part = model.blobs / file.etag, model.blobs / f"{file.etag}.lora-studio.part"
    before = progress.done
    if blob.is_file() and blob.stat().st_size == file.size:
        progress.done += file.size
        return
    for attempt in range(_TRIES):
        size = part.stat().st_size if part.is_file() else 0
        try:
            yield from _receive(model, file, part, context, progress, before)
        except (OSError, http.client.HTTPException, UnreachableError) as error:
            _reraise_full_disk(error, file)
            arrived = part.stat().st_size if part.is_file() else 0
            if (attempt == _TRIES - 1 or isinstance(error, UnreachableError)) and arrived <= size:
                message = f"The connection broke off in {file.name} at {arrived:,} of {file.size:,} bytes."
                raise StudioError(message, "What has come is kept: start again to go on from there.", FIELD) from error
            _pause(context, 0.2 * 2**attempt)
            continue
        if _is_whole(part, file):
            part.replace(blob)
            progress.done = before + file.size
            return
    raise StudioError(f"{file.name} of {model.repo_id} keeps coming damaged.", "Try again later, or look at the proxy in between.", FIELD)


def _receive(model: HubModel, file: HubFile, part: Path, context: TaskContext, progress: _Progress, before: int) -> Iterator[RunEvent]:
    """Append to the part what the server sends after it."""
    start = part.stat().st_size if part.is_file() else 0
    if start > file.size:
        part.unlink()
        start = 0
    if start == file.size and file.size:
        return
    with open_address(file_address(model.repo_id, model.commit, file.name), model.repo_id, model.revision, start) as answer:
        if answer.status != 206:
            start = 0  # the server sends all of it
        with part.open("ab" if start else "wb") as out:
            progress.done = before + start
            yield progress.phase(file.name)
            while block := answer.read1(_BLOCK):
                context.control.check()
                out.write(block)
                progress.done += len(block)
                if progress.due:
                    yield progress.phase(file.name)
            out.flush()
            os.fsync(out.fileno())
    if part.stat().st_size < file.size:
        raise http.client.IncompleteRead(b"", file.size - part.stat().st_size)


def _is_whole(part: Path, file: HubFile) -> bool:
    """Check a received file against the hash the Hub lists; a damaged one is removed, to be fetched afresh."""
    digest = file.digest()
    with part.open("rb") as received:
        while block := received.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() == file.etag and part.stat().st_size == file.size:
        return True
    part.unlink()
    return False


def _link(blob: Path, place: Path) -> None:
    """Link a blob's name in the snapshot to it; where links are not to be had (Windows), the blob itself moves there."""
    place.unlink(missing_ok=True)  # a link whose blob is gone
    try:
        place.symlink_to(os.path.relpath(blob, place.parent))
    except OSError:
        blob.replace(place)


def _make_folders(model: HubModel) -> None:
    try:
        model.blobs.mkdir(parents=True, exist_ok=True)
        model.snapshot.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"Cannot write to {repo_folder(model.repo_id)}: {error.strerror}."
        raise InputError(message, "Point HF_HOME at a folder you may write to.", FIELD) from error


def _check_disk(model: HubModel, files: list[HubFile]) -> None:
    wanted = sum(file.size for file in files if not (model.blobs / file.etag).is_file())
    wanted -= sum(part.stat().st_size for part in model.blobs.glob("*.lora-studio.part"))
    free = shutil.disk_usage(model.blobs).free
    if wanted > free:
        message = f"{model.repo_id} needs {wanted / 1e9:.1f} GB; {free / 1e9:.1f} GB are free at {repo_folder(model.repo_id)}."
        raise StudioError(message, "Free some space, or point HF_HOME at a larger disk.", FIELD)


def _reraise_full_disk(error: Exception, file: HubFile) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StudioError(f"The disk is full: {file.name} does not fit.", "Free some space and start again: what has come is kept.", FIELD)


def _pause(context: TaskContext, seconds: float) -> None:
    """Wait before the next attempt, looking for a cancel meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        context.control.check()
        time.sleep(0.05)
