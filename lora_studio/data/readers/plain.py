"""Plain text to records: a row ends at an empty line."""

from __future__ import annotations

from collections.abc import Iterator

from lora_studio.data.readers.records import Record
from lora_studio.data.readers.streams import START, Line, RowOffset, TextFile


class Paragraphs:
    """A text file whose rows are parted by empty lines."""

    enterable = True

    def __init__(self, file: TextFile) -> None:
        self.file = file

    def records(self, start: RowOffset = START) -> Iterator[Record]:
        """Return each paragraph from a mark on as a row with `text`."""
        for lines in self._paragraphs(start):
            fault = next((line.fault for line in lines if line.fault), "")
            text = "".join(line.text for line in lines).strip("\r\n")
            yield Record(lines[0].number, None, fault) if fault else Record(lines[0].number, {"text": text}, plain=True)

    def marks(self) -> Iterator[RowOffset]:
        """Return the start of each paragraph."""
        for lines in self._paragraphs(START):
            yield RowOffset(lines[0].position, lines[0].number)

    def _paragraphs(self, start: RowOffset) -> Iterator[list[Line]]:
        lines: list[Line] = []
        for line in self.file.lines(start):
            if line.text.strip():
                lines.append(line)
            elif lines:
                yield lines
                lines = []
        if lines:
            yield lines
