"""Data files as bytes and as lines of text: plain or compressed, in the encoding the settings name.

Nothing is guessed. A file in another encoding is told of with the one that fits; a line that is not in the encoding is a
fault of that line alone.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from lora_studio.core.errors import InputError
from lora_studio.data.readers.encodings import (
    COMPRESSIONS,
    FIELD,
    SAMPLE,
    decodes,
    garbled,
    is_legacy,
    is_utf8,
    latin,
    refuse_disguised,
    refuse_other_encoding,
)
from lora_studio.data.readers.legacy_encodings import CODECS, LATIN, Misfits

_BLOCK = 1 << 20
_NOTHING = b" \t\r\n\0\xef\xbb\xbf\xff\xfe"  # white space and byte order marks


class RowOffset(NamedTuple):
    """Where a row starts.

    Attributes:
        position: Bytes from the start of a plain file; rows before it where a file cannot be entered at a byte.
        line: Its line, or its row number in a file without lines, counted from 1.
    """

    position: int
    line: int


START = RowOffset(0, 1)


class Line(NamedTuple):
    """One line of a text file.

    Attributes:
        number: Counted from 1.
        text: With its line end; bytes that are not in the encoding are replaced.
        fault: Why the line cannot be used; empty when it can.
        position: Bytes from the start of the file, before compression.
    """

    number: int
    text: str
    fault: str
    position: int


def compression_of(path: Path) -> str:
    """Return the ending of a compressed file, such as `.gz`; empty for a plain one."""
    ending = path.suffix.lower()
    return ending if ending in COMPRESSIONS else ""


class TextFile:
    """A text file, read from its start or from a mark.

    Attributes:
        path: Where it is.
        encoding: How it is read.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        """Look at the file's first bytes.

        Raises:
            InputError: It cannot be read, is empty, or is in another encoding than the settings say.
        """
        self.path = path
        self.encoding = encoding
        self._raw: IO[bytes] | None = None
        self._misfits = self._fits = 0
        self._misread = Misfits()
        self._codec = CODECS.get(encoding, encoding)
        with readable(path):
            sample = self._first_bytes()
        if not sample.strip(_NOTHING):
            raise InputError(f"{path} is empty.", "Give a file with rows.", FIELD)
        refuse_disguised(path, sample)
        refuse_other_encoding(path, sample, encoding)
        if encoding == "utf-16":
            self.encoding = self._codec = "utf-16-be" if sample.startswith(codecs.BOM_UTF16_BE) else "utf-16-le"

    @property
    def offer(self) -> str:
        """The encoding that fits all lines read so far where the one set does not; empty when there is none to offer."""
        return next(iter(self.fitting), "")

    @property
    def fitting(self) -> tuple[str, ...]:
        """The encodings that fit all lines read so far where the one set does not, the likeliest first."""
        return self._misread.fitting() if self.encoding == "utf-8" and self._misfits and not self._fits else ()

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far, those buffered ahead among them."""
        return self._raw.tell() if self._raw is not None and not self._raw.closed else 0

    def lines(self, start: RowOffset = START) -> Iterator[Line]:
        """Return each line from a mark on; in a compressed file those before it are read and skipped.

        Raises:
            InputError: The file is cut off or damaged, or can no longer be read; or it was read as an older encoding and is UTF-8.
        """
        mark = START if compression_of(self.path) else start
        with readable(self.path), self._opened(mark.position) as file:
            position, number = mark
            for raw in self._raw_lines(file):
                if position >= start.position:
                    text, fault = self._decoded(raw)
                    yield Line(number, text if position else text.removeprefix("\ufeff"), fault, position)
                position += len(raw)
                number += 1
        if is_legacy(self.encoding) and start == START and self._fits and not self._misfits:
            raise garbled(self.path, self.encoding)

    def blocks(self) -> Iterator[str]:
        """Return the whole text block by block; a byte that is not UTF-8 becomes a lone surrogate (PEP 383).

        Raises:
            InputError: The file is cut off or damaged, or can no longer be read; or it was read as an older encoding and is UTF-8.
        """
        with readable(self.path), self._opened(0) as file:
            yield from self._legacy_blocks(file) if is_legacy(self.encoding) else _decoded_blocks(file, self.encoding)

    def note(self, *, fits: bool, raw: bytes = b"") -> None:
        """Count a row made of `blocks` that goes beyond ASCII, as `lines` counts its own, for `offer`; `raw` is one that does not fit."""
        self._fits += fits
        self._misfits += not fits
        if raw and not fits:
            self._misread.add(raw)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of a plain file between two positions, to its end where `end` is negative."""
        with readable(self.path), self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start if end >= 0 else -1)

    def _first_bytes(self) -> bytes:
        """Return a sample that holds something, from the start of the file."""
        with self._opened(0) as file:
            sample = file.read(SAMPLE)
            while sample and not sample.strip(_NOTHING) and (more := file.read(_BLOCK)):
                sample = more
        return sample

    @contextmanager
    def _opened(self, position: int) -> Generator[IO[bytes]]:
        with self.path.open("rb", buffering=0) as raw:
            raw.seek(position)
            self._raw = raw
            with _decompressed(raw, compression_of(self.path)) as file:
                yield file

    def _raw_lines(self, file: IO[bytes]) -> Iterator[bytes]:
        if self.encoding.startswith("utf-16"):
            return _wide_lines(file, "\n".encode(self.encoding))
        return iter(file)  # in no other encoding is the byte of a line end part of another character

    def _decoded(self, raw: bytes) -> tuple[str, str]:
        """Return a line's text, and why it cannot be used."""
        if is_legacy(self.encoding) and not self._misfits and not raw.isascii():
            self.note(fits=is_utf8(raw))
        if self.encoding == LATIN:
            text = latin(raw)
        else:
            try:
                text = raw.decode(self._codec)
            except UnicodeDecodeError as error:
                return raw.decode(self._codec, "replace"), self._misfit(raw, error)
            if not is_legacy(self.encoding) and not text.isascii():
                self._fits += 1
        if "\0" in text:
            return text, f"a NUL character at column {text.index(chr(0)) + 1}"
        return text, ""

    def _legacy_blocks(self, file: IO[bytes]) -> Iterator[str]:
        ascii_only = may_be_utf8 = True
        decoder = codecs.getincrementaldecoder("utf-8")()
        own = None if self.encoding == LATIN else codecs.getincrementaldecoder(self._codec)("surrogateescape")
        while block := file.read(_BLOCK):
            yield latin(block) if own is None else own.decode(block)
            ascii_only = ascii_only and block.isascii()
            may_be_utf8 = may_be_utf8 and decodes(decoder, block)
        if own is not None:
            yield own.decode(b"", True)
        if may_be_utf8 and not ascii_only and decodes(decoder, b"", final=True):
            raise garbled(self.path, self.encoding)

    def _misfit(self, raw: bytes, error: UnicodeDecodeError) -> str:
        if is_legacy(self.encoding):
            return f"not {self.encoding}: byte 0x{raw[error.start]:02x} at {error.start + 1}"
        self.note(fits=False, raw=raw)
        byte = raw[error.start]
        if self.encoding != "utf-8":
            return f"not {self.encoding.upper()}: byte 0x{byte:02x} at {error.start + 1}"
        return f"not UTF-8: byte 0x{byte:02x} at {error.start + 1} ({latin(bytes([byte]))!r} in latin-1)"


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Say in one sentence what went wrong while a file was read.

    Raises:
        InputError: The file is missing, may not be read, or is cut off or damaged.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.", "Check the path; it is relative to the config's folder.", FIELD) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(path, error) from error
    except OSError as error:
        if error.errno is None:  # a decompressor's word, not the system's
            raise damaged(path, error) from error
        raise InputError(f"Cannot read {path}: {error.strerror}.", "Check who may read it.", FIELD) from error


def damaged(path: Path, error: Exception) -> InputError:
    """Return the error for a compressed or binary file that cannot be read to its end."""
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    return InputError(f"{path} is cut off or damaged: {reason}.", "Get or make the file again.", FIELD)


@contextmanager
def _decompressed(raw: io.FileIO, ending: str) -> Generator[IO[bytes]]:
    if ending == ".gz":
        with io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=raw)), _BLOCK) as file:
            yield file
    elif ending:
        import pyarrow as pa

        stream: Any = pa.CompressedInputStream(raw, "zstd")
        with io.BufferedReader(stream, _BLOCK) as file:
            yield file
    else:
        with io.BufferedReader(raw, _BLOCK) as file:
            yield file


def _wide_lines(file: IO[bytes], end: bytes) -> Iterator[bytes]:
    """Return lines of two-byte characters: a line end counts at even places alone."""
    held = bytearray()
    while block := file.read(_BLOCK):
        searched = max(0, len(held) - 1)
        held += block
        start = 0
        while (found := held.find(end, searched)) >= 0:
            searched = found + 1
            if (found - start) % 2 == 0:
                yield bytes(held[start : found + 2])
                start = searched = found + 2
        del held[:start]
    if held:
        yield bytes(held)


def _decoded_blocks(file: IO[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding == "utf-8" else "surrogatepass")
    first = True
    while block := file.read(_BLOCK):
        text = decoder.decode(block)
        yield text.removeprefix("\ufeff") if first else text
        first = False
    try:
        yield decoder.decode(b"", True)
    except UnicodeDecodeError:  # the file's end cuts a character
        yield "\ufffd"


def size_of(path: Path) -> int:
    """Return a file's bytes on disk; 0 where it cannot be seen."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
