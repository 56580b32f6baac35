"""Data sets from the Hub: `hf://owner/name`, `@revision`, `?config=…&split=…`; fetched once, then read as any other file."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.files import write_atomically
from lora_studio.core.paths import studio_paths
from lora_studio.data.readers.dataset_layout import choose_files
from lora_studio.data.readers.encodings import FIELD
from lora_studio.hub.cache import hub_cache_folder
from lora_studio.hub.client import endpoint, is_switched_offline
from lora_studio.hub.reach import why_unreachable

ProgressCallback = Callable[[int, int], None]
_NAME = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([^?\s]+))?(?:\?(.*))?")


@dataclass(frozen=True)
class HubName:
    """A data set on the Hub.

    Attributes:
        repo: owner/name.
        revision: Branch, tag or commit.
        config: One of its configurations; empty for the default.
        split: One of its splits.
    """

    repo: str
    revision: str = "main"
    config: str = ""
    split: str = "train"


def parse_hub_name(name: str) -> HubName:
    """Read `hf://owner/name@revision?config=…&split=…`.

    Raises:
        InputError: It is something else.
    """
    found = _NAME.fullmatch(name)
    options = dict(urllib.parse.parse_qsl(found[3] or "")) if found else {}
    if not found or options.keys() - {"config", "split"}:
        raise InputError(
            f"{name} is no name of a Hub data set.",
            "Write hf://owner/name, with @revision and ?config=…&split=… behind it where they are needed.",
            FIELD,
        )
    return HubName(found[1], found[2] or "main", options.get("config", ""), options.get("split", "train"))


def hub_files(name: str, progress: ProgressCallback | None = None) -> list[tuple[str, Path]]:
    """Return a data set's files, each as people are told of it and where it is on this machine; fetch those that are not there.

    Args:
        name: As the settings have it.
        progress: Called with bytes fetched and bytes to fetch; may raise to cancel.

    Raises:
        InputError: The name is none, the data set is gated or not there, or the Hub is off and not all of it is here.
        StudioError: The Hub answers with something else.
    """
    wanted = parse_hub_name(name)
    commit, files, offline = _listing(wanted)
    place = _Place(wanted.repo, commit, offline)
    card = place.file("README.md").read_text(encoding="utf-8", errors="replace") if "README.md" in files else ""
    chosen = choose_files(list(files), card, wanted.config, wanted.split, f"hf://{wanted.repo}")
    done, total = 0, sum(files[name] for name in chosen)
    found: list[tuple[str, Path]] = []
    for file in chosen:
        found.append((f"hf://{wanted.repo}/{file}", place.file(file, _later(progress, done, total))))
        done += files[file]
    return found


def _later(progress: ProgressCallback | None, done: int, total: int) -> Callable[[int], None]:
    return lambda more: progress(min(done + more, total), total) if progress else None


def _listing(wanted: HubName) -> tuple[str, dict[str, int], str]:
    """Return a data set's commit, its files with their sizes, and why the Hub is not asked; the last answer stands in for it then."""
    kept = studio_paths().cache / "hub_data" / f"{wanted.repo.replace('/', '--')}--{urllib.parse.quote(wanted.revision, safe='')}.json"
    offline = _why_offline()
    if not offline:
        commit, files = _ask(wanted)
        write_atomically(kept, json.dumps({"commit": commit, "files": files}))
        return commit, files, ""
    try:
        tree = json.loads(kept.read_text(encoding="utf-8"))
        return str(tree["commit"]), {str(name): int(size) for name, size in tree["files"].items()}, offline
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _not_here(wanted.repo, offline) from None


def _why_offline() -> str:
    if is_switched_offline("HF_DATASETS_OFFLINE"):
        return "the Hub is switched off by HF_HUB_OFFLINE"
    reason = why_unreachable(endpoint())
    return f"the Hub ({urllib.parse.urlsplit(endpoint()).netloc}) cannot be reached: {reason}" if reason else ""


def _ask(wanted: HubName) -> tuple[str, dict[str, int]]:
    from huggingface_hub import HfApi

    with _told_plainly(wanted.repo, wanted.revision):
        answer: Any = HfApi(endpoint=endpoint()).dataset_info(wanted.repo, revision=wanted.revision, files_metadata=True, timeout=20)
        return str(answer.sha), {str(file.rfilename): int(file.size or 0) for file in answer.siblings or ()}


@dataclass(frozen=True)
class _Place:
    """A data set at one commit: in the Hub's cache on this machine, and on the Hub unless `offline` says why not."""

    repo: str
    commit: str
    offline: str

    def file(self, name: str, progress: Callable[[int], None] | None = None) -> Path:
        """Return where a file is, fetched if need be."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        cache = str(hub_cache_folder())
        here = try_to_load_from_cache(self.repo, name, cache_dir=cache, revision=self.commit, repo_type="dataset")
        if isinstance(here, str):
            return Path(here)
        if self.offline:
            raise _not_here(self.repo, self.offline)
        with _told_plainly(self.repo, self.commit):
            return Path(
                hf_hub_download(
                    self.repo,
                    name,
                    repo_type="dataset",
                    revision=self.commit,
                    cache_dir=cache,
                    endpoint=endpoint(),
                    tqdm_class=_meter(progress),
                )
            )


def _meter(progress: Callable[[int], None] | None) -> Any:
    """Return a progress bar that draws nothing and tells how far a file is; what `progress` raises ends the fetching."""
    from tqdm.auto import tqdm

    class Meter(tqdm):  # type: ignore[misc,type-arg]  # tqdm publishes no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})
            self._done = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            if progress:
                progress(self._done)
            return None

    return Meter


@contextmanager
def _told_plainly(repo: str, revision: str) -> Generator[None]:
    """Turn the Hub library's errors into ours; their own text may hold a request's address and headers, and is not shown."""
    from huggingface_hub import errors

    page = f"{endpoint()}/datasets/{repo}"
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"hf://{repo} is gated: its owner grants access to people who accept its terms.",
            f"Ask for access at {page}, then {log_in}.",
            FIELD,
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"hf://{repo} has no revision {revision}.", "Leave @revision out for the main branch.", FIELD) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"The Hub has no data set {repo} that you may see.", f"Check the spelling; for a private one {log_in}.", FIELD
        ) from None
    except errors.OfflineModeIsEnabled:
        raise _not_here(repo, "the Hub is switched off by HF_HUB_OFFLINE") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", "an error")
        raise StudioError(f"The Hub answered {status} for hf://{repo}.", "Try again later.", FIELD) from None
    except (OSError, errors.LocalEntryNotFoundError) as error:
        if getattr(error, "errno", None):
            raise StudioError(f"hf://{repo} cannot be fetched: {error.strerror}.", "Check the disk, then try again.", FIELD) from None
        raise StudioError(f"hf://{repo} cannot be fetched: the connection broke.", "Check the network, then try again.", FIELD) from None


def _not_here(repo: str, reason: str) -> InputError:
    return InputError(
        f"hf://{repo} is not on this machine in full, and {reason}.", "Check the network, or name files that are on this machine.", FIELD
    )
