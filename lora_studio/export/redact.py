"""What may stand where others read it: names without the folders of this machine, words that are no markup. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

from lora_studio.core.settings import STARTER_MODEL
from lora_studio.models.sources import STARTER

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_SEPARATOR = re.compile(r"[\\/]+")


def public_name(name_or_path: str) -> str:
    """Return a model's or a file's name for others to read: a Hub id as it is, of a path only its last part, on whichever system."""
    return hub_id(name_or_path) or last_part(name_or_path)


def last_part(path: str) -> str:
    """Return the last part of a path of any system."""
    return next((part for part in reversed(_SEPARATOR.split(path)) if part), "")


def hub_id(name_or_path: str) -> str:
    """Return the Hub id that a model's name is; empty where it means a folder or a file of this machine."""
    if name_or_path == STARTER:
        return STARTER_MODEL
    is_id = _HUB_ID.fullmatch(name_or_path) and ".." not in name_or_path and not name_or_path.endswith(".gguf")
    return name_or_path if is_id and not _is_here(name_or_path) else ""


def plain(text: str) -> str:
    """Return a text for one line of Markdown or a cell of a table: nothing in it is read as markup, and no line ends."""
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", flat)


def code(text: str) -> str:
    """Return a text as Markdown's code, for one line or a cell of a table; what would end the code is left out."""
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).replace("`", "'").split())
    return f"`{flat.replace('|', chr(92) + '|')}`" if flat else ""


def _is_here(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
