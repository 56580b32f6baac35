"""Which files of an export go to the Hub, and with what in them: nothing of this machine, no token. No torch here."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.export.destination import CERTIFICATE_NAME, CERTIFICATE_PAGE
from lora_studio.export.redact import last_part, public_name
from lora_studio.inference.adapters import ADAPTER_CONFIG

_WEIGHTS = (".safetensors", ".gguf")
_TEXTS = (".json", ".md", ".svg", ".html", ".txt", ".jinja")
_OTHERS = (".model",)
_PLAIN_NAMES = ("Modelfile", "LICENSE", "NOTICE")
_MODEL_CONFIG = "config.json"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")  # any text may be a token there
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")


@dataclass(frozen=True)
class UploadFile:
    """One file to upload.

    Attributes:
        name: In the repository.
        path: Here.
        content: What to upload in its place; None for the file as it is.
    """

    name: str
    path: Path
    content: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes to upload."""
        return self.path.stat().st_size if self.content is None else len(self.content)


def files_to_upload(folder: Path, token: str) -> tuple[list[UploadFile], list[str]]:
    """Choose the files of an export that go to the Hub, and name those that stay here.

    Only what an export consists of goes: no hidden files, no links, no pickles, nothing else that came to lie there. Of folders on
    this machine the last part goes.

    Args:
        folder: The export.
        token: The Hub token that must stand in none of them.

    Raises:
        InputError: A file holds a token or names the person's home folder.
    """
    entries = sorted(folder.iterdir())
    chosen = [path for path in entries if _is_of_an_export(path)]
    contents = {path.name: _public_content(path) for path in chosen if path.suffix not in (*_WEIGHTS, *_OTHERS)}
    _renew_hashes(folder, contents)
    for name, content in contents.items():
        _refuse_private(folder / name, content, token)
    files = [UploadFile(path.name, path, contents.get(path.name)) for path in chosen]
    return files, [path.name for path in entries if path not in chosen]


def _is_of_an_export(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or path.name.startswith("."):
        return False
    return path.suffix in (*_WEIGHTS, *_TEXTS, *_OTHERS) or path.name in _PLAIN_NAMES


def _public_content(path: Path) -> bytes:
    """Read a text file, folders of this machine taken out of the configs that name some."""
    raw = path.read_bytes()
    if path.name not in (ADAPTER_CONFIG, _MODEL_CONFIG, CERTIFICATE_NAME):
        return raw
    try:
        found: Any = json.loads(raw)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.", "Export it again.", "folder") from error
    public = _without_folders(found)
    base: object = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    if isinstance(base, str):
        public["base_model_name_or_path"] = public_name(base)
    return raw if public == found else json.dumps(public, indent=2, ensure_ascii=False).encode() + b"\n"


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    if isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return last_part(value)
    return value


def _renew_hashes(folder: Path, contents: dict[str, bytes]) -> None:
    """Let the certificate and its page name the hashes of the files as they go out, where those are others than here."""
    renewed = {
        hashlib.sha256((folder / name).read_bytes()).hexdigest().encode(): hashlib.sha256(content).hexdigest().encode()
        for name, content in contents.items()
    }
    for name in (CERTIFICATE_NAME, CERTIFICATE_PAGE):
        for before, after in renewed.items():
            if name in contents and before != after:
                contents[name] = contents[name].replace(before, after)


def _refuse_private(path: Path, content: bytes, token: str) -> None:
    if (token and token.encode() in content) or _TOKEN.search(content):
        raise InputError(f"{path} holds a Hub token.", "Take it out of the file, and revoke it at the Hub.", "folder")
    home = str(Path.home())
    if path.name not in _VOCABULARIES and len(home) > 1 and any(f"{home}{end}".encode() in content for end in "/\\"):
        raise InputError(f"{path} names a folder of this machine, below {home}.", "Take it out of the file, then push again.", "folder")


class WatchedFile(io.BufferedReader):
    """A file that tells how far it has been read, and can stop whoever reads it.

    Args:
        path: The file.
        look: Called with the bytes read so far after every block; what it raises ends the reading.
    """

    def __init__(self, path: Path, look: Callable[[int], None]) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._look = look

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes, all that is left where it is negative or None."""
        block = super().read(size)
        self._look(self.tell())
        return block
