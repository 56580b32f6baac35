"""What a file's bytes are, told by their looks: its kind, and an encoding other than the one the settings name."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError

FIELD = "data.train"
COMPRESSIONS = (".gz", ".zst", ".zstd")
SAMPLE = 1 << 16
"""Bytes of a file's start that are looked at."""
_SIGNS = '\ufeff\n\r\t ,;:"[]{}'  # what rows of any language are written with
# What web pages and spreadsheets call latin-1 is Windows-1252: the same letters, and curly quotes and dashes where latin-1 has
# control characters that no text holds. The five places Windows-1252 leaves open keep their latin-1 meaning.
_LATIN = "".join(bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(256))
_LATIN_MAP: Any = _LATIN  # charmap_decode is quick with a string, which its stub does not know
_MAGIC = {
    b"\x1f\x8b": ("gzip data", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstd data", ".zst"),
    b"PAR1": ("Parquet", ".parquet"),
    b"PK\x03\x04": ("a zip archive", ""),
    b"BZh": ("bzip2 data", ""),
    b"\xfd7zXZ": ("xz data", ""),
    b"ARROW1": ("Arrow", ""),
}


def latin(raw: bytes) -> str:
    """Read bytes as latin-1 in its wide sense, Windows-1252: every byte is a letter."""
    return codecs.charmap_decode(raw, "strict", _LATIN_MAP)[0]


def refuse_disguised(path: Path, sample: bytes) -> None:
    """Raise `InputError` for a file that is of a kind its name does not say."""
    for magic, (kind, ending) in _MAGIC.items():
        if sample.startswith(magic):
            way_out = f"Name it {path.name}{ending}." if ending in COMPRESSIONS else "Unpack it, or write it as one of the kinds known."
            if ending == ".parquet":
                way_out = f"Name it {path.stem}.parquet."
            raise InputError(f"{path} is {kind}, which its name does not say.", way_out, FIELD)


def refuse_other_encoding(path: Path, sample: bytes, encoding: str) -> None:
    """Refuse a file whose first bytes show an encoding that the settings do not name, and offer it."""
    found = _wide_encoding(sample)
    if found == "utf-32":
        raise InputError(f"{path} is UTF-32.", "Save it as UTF-8.", FIELD)
    if sample.startswith(codecs.BOM_UTF8) and encoding != "utf-8":
        raise InputError(f"{path} is UTF-8, not {encoding}.", "Take data.encoding out, or set it to utf-8.", "data.encoding")
    reads_as_utf8 = not found and is_utf8(sample, whole=len(sample) < SAMPLE)
    if is_legacy(encoding) and not sample.isascii() and reads_as_utf8:
        raise garbled(path, encoding)
    if encoding.startswith("utf-16"):
        if reads_as_utf8:
            raise InputError(f"{path} is not UTF-16: it reads as UTF-8.", "Take data.encoding out, or set it to utf-8.", "data.encoding")
        _refuse_other_order(path, sample, encoding)
    elif found:
        name = encoding.upper() if encoding == "utf-8" else encoding
        raise InputError(f"{path} is {found.upper()}, not {name}.", f"Set data.encoding to {found}, or save it as UTF-8.", "data.encoding")


def _refuse_other_order(path: Path, sample: bytes, encoding: str) -> None:
    """Refuse UTF-16 whose bytes stand the other way round: read the right way it has the signs that rows are written with."""
    unmarked = encoding == "utf-16"
    if unmarked and sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return
    taken, other = ("utf-16-be", "utf-16-le") if encoding == "utf-16-be" else ("utf-16-le", "utf-16-be")
    signs, other_signs = (sum(map(sample.decode(order, "replace").count, _SIGNS)) for order in (taken, other))
    if other_signs > 10 * signs:
        why = ", as which utf-16 without a byte order mark is read" if unmarked else ""
        raise InputError(
            f"{path} is {other.upper()}, not {taken}{why}.", f"Set data.encoding to {other}, or save it as UTF-8.", "data.encoding"
        )


def is_legacy(encoding: str) -> bool:
    """Return whether an encoding is none of Unicode's own."""
    return not encoding.startswith("utf-")


def garbled(path: Path, encoding: str) -> InputError:
    """Return the error of UTF-8 that an older encoding is set for."""
    return InputError(
        f"{path} reads as UTF-8, which {encoding} would garble.",
        "Take data.encoding out; where other files need it, save those as UTF-8.",
        "data.encoding",
    )


def _wide_encoding(sample: bytes) -> str:
    """Tell UTF-16 and UTF-32 by their byte order mark, or by where the zero bytes of ASCII characters stand."""
    if sample.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    starts_ascii = [bool(byte) for byte in sample[:4]]
    if odd > 10 * even and (odd * 5 > len(sample) or starts_ascii == [True, False, True, False]):
        return "utf-16-le"
    if even > 10 * odd and (even * 5 > len(sample) or starts_ascii == [False, True, False, True]):
        return "utf-16-be"
    return ""


def is_utf8(sample: bytes, *, whole: bool = True) -> bool:
    """Return whether bytes are text in UTF-8; the last character of a sample that is not `whole` may be cut."""
    return decodes(codecs.getincrementaldecoder("utf-8")(), sample, final=whole) and b"\0" not in sample


def decodes(decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool = False) -> bool:
    """Return whether a block of bytes goes through a decoder."""
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True
