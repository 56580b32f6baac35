"""Tell two base models apart by their weights: an adapter belongs to the base it was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.files import sha256_of, write_atomically
from lora_studio.core.paths import studio_paths
from lora_studio.models.check import FIELD, weight_files

FINGERPRINT_VERSION = 1


def weight_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the names' order and contents of a model's weight files, as 64 hexadecimal digits.

    Every byte counts. A file's hash is kept by its path, size and time, so only the first call reads the weights
    (about a second for each gigabyte).

    Raises:
        InputError: The folder has no weights, or they are missing in part.
    """
    files = weight_files(folder)
    if not files:
        raise InputError(f"{folder} has no weights.", "Put the model's *.safetensors files beside config.json.", FIELD)
    digest = hashlib.sha256(f"{FINGERPRINT_VERSION}".encode())
    for file in files:
        digest.update(bytes.fromhex(_hash_of(file)))
    return digest.hexdigest()


def _hash_of(file: Path) -> str:
    """Return a file's SHA-256, from the cache where its size and time are the same."""
    state = file.stat()
    path = str(file.resolve())
    known: dict[str, str | int] = {"path": path, "size": state.st_size, "time": state.st_mtime_ns}
    key = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    kept = studio_paths().cache / "fingerprints" / f"{key}.json"
    try:
        raw: Any = json.loads(kept.read_text(encoding="utf-8"))
        if {key: raw[key] for key in known} == known:
            return str(raw["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raw = None  # nothing kept, or not ours: read the file
    found = sha256_of(file)
    write_atomically(kept, json.dumps({**known, "sha256": found}))
    return found
