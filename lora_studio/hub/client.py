"""Ask the Hub: one request, its redirects, and every way it can refuse said plainly. Standard library only.

A token comes from the environment or the Hub's own store, is sent to the Hub's host alone (never to the storage host it
redirects to), and never appears in a message.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any

from lora_studio.core.errors import InputError, StudioError
from lora_studio.hub.errors import UnreachableError
from lora_studio.hub.reach import CONNECT_SECONDS, why_unreachable

DEFAULT_ENDPOINT = "https://huggingface.co"
FIELD = "model.name_or_path"
"""The setting that names a model, for errors."""
READ_SECONDS = 20.0
_MAX_ANSWER_BYTES = 64_000_000
_ON = ("1", "true", "yes", "on")


def endpoint() -> str:
    """Return the Hub's address: `HF_ENDPOINT`, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_switched_offline(library: str = "TRANSFORMERS_OFFLINE") -> bool:
    """Return whether a person told the Hub's client, or the library that reads what is fetched, to stay offline.

    Args:
        library: The variable of that library: transformers' for models, `HF_DATASETS_OFFLINE` for data sets.
    """
    return any(os.environ.get(name, "").lower() in _ON for name in ("HF_HUB_OFFLINE", library))


def model_address(repo_id: str, revision: str) -> str:
    """Return the address that describes a model at a revision, with the sizes and hashes of its files."""
    return f"{endpoint()}/api/models/{repo_id}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"


def file_address(repo_id: str, commit: str, name: str) -> str:
    """Return the address of one file of a model."""
    return f"{endpoint()}/{repo_id}/resolve/{commit}/{urllib.parse.quote(name)}"


def ask_json(address: str, repo_id: str, revision: str) -> Any:
    """Ask for a JSON answer.

    Raises:
        UnreachableError: The Hub cannot be reached.
        InputError: The model is gated, private, or not there.
        StudioError: The Hub answered with something else.
    """
    _refuse_unreachable(address)
    with open_address(address, repo_id, revision) as answer:
        raw = answer.read(_MAX_ANSWER_BYTES)
    try:
        return json.loads(raw)
    except ValueError as error:
        message = f"{endpoint()} answered something that is not the Hub's."
        raise StudioError(message, "Check HF_ENDPOINT, and whether a login page stands between.", FIELD) from error


def open_address(address: str, repo_id: str, revision: str, start: int = 0) -> http.client.HTTPResponse:
    """Open an address for reading, from byte `start` on where the server can (then its status is 206).

    Raises:
        UnreachableError: The Hub cannot be reached.
        InputError: The model is gated, private, or not there.
        StudioError: The Hub answered with something else.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "lora-studio", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    token = hub_token()
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(_Redirects)
    try:
        answer: http.client.HTTPResponse = opener.open(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        raise _refusal(error, repo_id, revision) from None  # its chain would carry the request's headers
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise _offline(getattr(error, "reason", error)) from None
    _allow_slow_reads(answer)
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects; the token stays with the host it belongs to, and https does not become http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme == "https" and after.scheme != "https"):
            raise urllib.error.URLError(f"a redirect to {after.scheme} is not followed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if request is not None and token and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            request.add_unredirected_header("Authorization", token)
        return request


def _allow_slow_reads(answer: http.client.HTTPResponse) -> None:
    """Let a server that has answered take longer between two blocks than it may for its first word."""
    raw: Any = getattr(answer.fp, "raw", None)
    connection: Any = getattr(raw, "_sock", None)
    if isinstance(connection, socket.socket):
        connection.settimeout(READ_SECONDS)


def _refuse_unreachable(address: str) -> None:
    if reason := why_unreachable(address, CONNECT_SECONDS):
        raise _offline(reason)


def hub_token() -> str:
    """Return the Hub token from the environment or the Hub's own store; empty when there is none."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _ON:
        return ""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return os.environ[name].strip()
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    store = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return store.read_text(encoding="utf-8").strip()
    except OSError:
        return ""  # nobody has logged in: public models need no token


def _offline(reason: object) -> UnreachableError:
    host = urllib.parse.urlsplit(endpoint()).netloc
    hint = "Check the network, or choose a model that is on this machine, such as starter."
    return UnreachableError(f"The Hub ({host}) cannot be reached: {reason}.", hint, FIELD)


def _refusal(error: urllib.error.HTTPError, repo_id: str, revision: str) -> StudioError:
    """Say what an HTTP status means for the person who asked for this model."""
    code = error.headers.get("X-Error-Code", "")
    page = f"{endpoint()}/{repo_id}"
    if code == "GatedRepo":
        hint = f"Ask for access at {page}, then log in with `hf auth login` or set HF_TOKEN."
        return InputError(f"{repo_id} is gated: its owner grants access to people who accept its terms.", hint, FIELD)
    if code == "RevisionNotFound":
        return InputError(f"{repo_id} has no revision {revision}.", "Leave the revision empty for the main branch.", "model.revision")
    if error.code in (401, 403, 404):
        hint = "Check the spelling; for a private model log in with `hf auth login` or set HF_TOKEN."
        if hub_token() and error.code == 401 and not code:
            return InputError("The Hub refuses the token it was given.", "Log in again with `hf auth login`, or mend HF_TOKEN.", FIELD)
        return InputError(f"The Hub has no model {repo_id} that you may see.", hint, FIELD)
    if error.code == 429:
        return UnreachableError("The Hub asks for a pause: too many requests.", "Try again in a few minutes.", FIELD)
    return UnreachableError(f"The Hub answered {error.code} for {repo_id}.", "Try again later.", FIELD)
