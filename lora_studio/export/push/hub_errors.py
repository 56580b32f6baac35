"""What huggingface_hub raises and logs while it uploads, told plainly and without the token."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator
from pathlib import Path

from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.hub.client import endpoint
from lora_studio.hub.errors import UnreachableError

LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN; the token needs leave to write."
_LIBRARY_LOGS = ("huggingface_hub._commit_api", "huggingface_hub.hf_api", "huggingface_hub.utils._http")


@contextlib.contextmanager
def quiet_library() -> Generator[None]:
    """Keep huggingface_hub's remarks on retries and transfers off standard error: what matters of them becomes an error here."""
    logs = [logging.getLogger(name) for name in _LIBRARY_LOGS]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextlib.contextmanager
def told_plainly(repo_id: str, token: str) -> Generator[None]:
    """Turn what huggingface_hub raises into an error for a person; its chain, which carries the request's headers, is dropped."""
    try:
        yield
    except (StudioError, Cancelled, GeneratorExit):
        raise
    except Exception as error:
        chain = list(_chain(error))
        if any(isinstance(cause, Cancelled) for cause in chain):
            raise Cancelled from None
        known = next((told for cause in chain if (told := _refusal(cause, repo_id, token)) is not None), None)
        if known is None:
            raise
        raise known from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _refusal(error: BaseException, repo_id: str, token: str) -> StudioError | None:
    """Say what an error of the library means; None for one that is not the Hub's or the network's."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return _status(error.response.status_code, (error.server_message or "").replace(token, "…"), repo_id)
    if type(error).__module__.partition(".")[0].startswith("httpx") or isinstance(error, ConnectionError | TimeoutError):
        return UnreachableError(f"The connection to {endpoint()} broke off.", "Check the network, then push again.", "repo_id")
    if isinstance(error, OSError):
        where = Path(str(error.filename)).name if error.filename else "a file"
        return StudioError(f"Reading {where} failed: {error.strerror or 'it is not as it was'}.", "Export again, then push.", "folder")
    if isinstance(error, ValueError | KeyError):  # an answer that is not the Hub's
        return StudioError(f"{endpoint()} answered something that is not the Hub's.", "Check HF_ENDPOINT, then push again.", "repo_id")
    return None


def _status(status: int, server_message: str, repo_id: str) -> StudioError:
    owner = repo_id.partition("/")[0]
    said = f" It says: {' '.join(server_message.split())[:200]}" if server_message else ""
    if status == 401:
        return InputError("The Hub refuses the token it was given.", LOG_IN, "repo_id")
    if status in (402, 403, 404):
        hint = f"Check the name, and that the token may write for {owner}: https://huggingface.co/settings/tokens"
        return InputError(f"The Hub does not let this token write to {repo_id}.{said}", hint, "repo_id")
    if status == 429 or status >= 500:
        return UnreachableError(f"The Hub is too busy or out of order ({status}).", "Push again in a few minutes.", "repo_id")
    hint = "Look at what it says, then push again."
    return StudioError(f"The Hub refused what was pushed to {repo_id} ({status}).{said}", hint, "repo_id")
