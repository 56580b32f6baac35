"""Encodings from before UTF-8: which of them fit bytes that are not UTF-8. They are offered, never taken by themselves."""

from __future__ import annotations

CODECS = {
    "gb18030": "gb18030",
    "big5": "cp950",
    "shift_jis": "cp932",
    "euc_jp": "euc_jp",
    "euc_kr": "cp949",
    **{f"windows-{number}": f"cp{number}" for number in (1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)},
    "koi8-r": "koi8_r",
}
"""What `data.encoding` calls each, and Python's codec: of several by one name the widest, as browsers take it (the Encoding Standard)."""
LATIN = "latin-1"
_KEPT = 1 << 15
"""Bytes that are looked at for what language they are in; all are looked at for whether they can be decoded."""
_OF_LATIN_LETTERS = ("windows-1250", "windows-1254", "windows-1257", "windows-1258")
"""A few letters do not tell these from latin-1, which is by far the most usual."""


class Misfits:
    """Bytes of a file that are not UTF-8, and the encodings in which all of them can be decoded."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._decoding = dict(CODECS)

    def add(self, raw: bytes) -> None:
        """Take in a line."""
        if len(self._kept) < _KEPT:
            self._kept += raw.rstrip(b"\r\n") + b"\n"
        self._decoding = {name: codec for name, codec in self._decoding.items() if _decodes(raw, codec)}

    def fitting(self) -> tuple[str, ...]:
        """Return the encodings that fit, the likeliest first; latin-1 can be decoded whatever the bytes are, so it is always among them."""
        import charset_normalizer

        names = {codec: name for name, codec in self._decoding.items()} | {"cp1252": LATIN}
        matches = charset_normalizer.from_bytes(bytes(self._kept), cp_isolation=list(names))
        alike = (codec for match in matches for codec in (match.encoding, *match.could_be_from_charset))
        likely = [names[codec] for codec in alike if codec in names]
        if not likely or likely[0] in _OF_LATIN_LETTERS:
            likely = [LATIN, *likely]
        return tuple(dict.fromkeys([*likely, LATIN]))


def _decodes(raw: bytes, codec: str) -> bool:
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError:
        return False
    return not any("\x80" <= letter <= "\x9f" for letter in text)  # control characters, which no text holds
