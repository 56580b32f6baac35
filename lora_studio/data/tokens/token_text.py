"""What each token stands for, byte for byte, as no decoder of whole texts can tell."""

from __future__ import annotations

import json
import re
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """Single tokens of one tokenizer as text."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast tokenizer."""
        self._backend: Any = tokenizer.backend_tokenizer
        self._added = {int(number): str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        decoder = json.dumps(json.loads(self._backend.to_str()).get("decoder"))
        self._bytes = _byte_alphabet() if '"ByteLevel"' in decoder else {}

    def raw(self, token_id: int) -> bytes:
        """Return the bytes a token stands for, as UTF-8 where it is written in characters."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = str(self._backend.id_to_token(token_id) or "")
        if self._bytes and all(character in self._bytes for character in token):
            return bytes(self._bytes[character] for character in token)
        if found := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(found[1], 16)])
        return token.replace("▁", " ").encode()

    def of(self, token_id: int) -> str:
        """Return a token's text; bytes that make no whole character are written as `\\xF0`."""
        return self.raw(token_id).decode("utf-8", "backslashreplace")


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Bytes that print stand for themselves, the others in their order for the characters from 256 on (GPT-2's own table).
    """
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printing]
    return {**{chr(byte): byte for byte in printing}, **{chr(256 + place): byte for place, byte in enumerate(others)}}
