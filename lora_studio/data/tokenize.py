"""Rows of files to a stored data set: read, render, tokenize, write, a block at a time.

While the child renders the next block this process tokenizes the last one, so rendering costs little of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora_studio.core.config import DataSettings
from lora_studio.data.check import DataCheck, check_files, refuse_bad_rows
from lora_studio.data.encode import Encoder
from lora_studio.data.files import file_readers
from lora_studio.data.rows import BadRow, Row, RowError
from lora_studio.data.template import ChatTemplate, Rendered
from lora_studio.data.token_cache import hashes_of, key_of, stored
from lora_studio.data.token_store import StoreWriter, TokenStore
from lora_studio.data.trainable import refuse_untrainable

Progress = Callable[[int, int], None]
ROWS_AT_ONCE = 512
_CHARACTERS_AT_ONCE = 4_000_000  # of a few long rows, a block holds fewer
_KEY_SETTINGS = ("train", "eval", "format", "columns", "encoding", "train_on")


@dataclass
class _Block:
    rows: list[Row] = field(default_factory=list[Row])
    characters: int = 0


def stored_tokens(
    settings: DataSettings, tokenizer: Any, template: ChatTemplate, encoder: Encoder, progress: Progress | None = None,
) -> tuple[TokenStore, bool]:
    """Give a data set's tokens, whole and unsplit: from the cache where nothing they depend on has changed, else made now.

    Args:
        settings: The files, and how to read them.
        tokenizer: The fast tokenizer `encoder` works with; a part of the key.
        template: The chat template, likewise.
        encoder: Turns text into tokens.
        progress: Called with rows done and rows in all, after every block.

    Returns:
        The tokens, and whether they were in the cache.

    Raises:
        InputError: A file or row is bad (`on_bad_rows: stop`), or the rows cannot be rendered.
    """
    hashes = hashes_of({reader.path: reader.where for _split, reader in file_readers(settings)})
    shape = settings.model_dump(mode="json", include=set(_KEY_SETTINGS))
    key = key_of({"settings": shape, "files": hashes, "template": template.identity, "tokenizer": encoder.identity(tokenizer)})

    def build(folder: Path) -> None:
        check = check_files(settings)
        refuse_untrainable(check)
        if settings.on_bad_rows == "stop":
            refuse_bad_rows(check.bad_rows, check.bad_count, check.encoding_offer)
        writer = StoreWriter(folder)
        try:
            refused = _write_rows(settings, check, template, encoder, writer, progress)
            writer.finish(_manifest(check, refused, hashes, template))
        finally:
            writer.close()

    return stored(key, build)


def _write_rows(
    settings: DataSettings, check: DataCheck, template: ChatTemplate, encoder: Encoder, writer: StoreWriter, progress: Progress | None,
) -> list[BadRow]:
    """Write every sound row; give those the template refuses."""
    numbers = {file.path: number for number, file in enumerate(check.files)}
    refused: list[BadRow] = []
    done = 0
    for rows, rendered in _rendered_blocks(settings, template):
        kept = [(row, text) for row, text in zip(rows, rendered) if isinstance(text, Rendered)]
        refused += [BadRow(row.file, row.line, str(fault)) for row, fault in zip(rows, rendered) if isinstance(fault, RowError)]
        if kept:
            tokens = encoder.encode([text for _row, text in kept])
            writer.add(tokens, [(numbers[row.file], row.line) for row, _text in kept])
        done += len(rows)
        if progress:
            progress(done, check.rows)
    return refused


def _rendered_blocks(settings: DataSettings, template: ChatTemplate) -> Iterator[tuple[list[Row], list[Rendered | RowError]]]:
    """Give each block with its texts, the child being busy with the next one by then."""
    waiting: list[Row] = []
    for rows in _blocks(settings):
        if waiting:
            done = template.receive()
            template.send(rows, settings.train_on)
            yield waiting, done
        else:
            template.send(rows, settings.train_on)
        waiting = rows
    if waiting:
        yield waiting, template.receive()


def _blocks(settings: DataSettings) -> Iterator[list[Row]]:
    block = _Block()
    for _split, reader in file_readers(settings):
        for row in reader.rows():
            if isinstance(row, BadRow):
                continue
            block.rows.append(row)
            block.characters += len(row.text) + sum(len(message.content) for message in row.messages)
            if len(block.rows) == ROWS_AT_ONCE or block.characters > _CHARACTERS_AT_ONCE:
                yield block.rows
                block = _Block()
    if block.rows:
        yield block.rows


def _manifest(check: DataCheck, refused: list[BadRow], hashes: dict[str, str], template: ChatTemplate) -> dict[str, Any]:
    """Say what the tokens were made of."""
    bad_rows = (*check.bad_rows, *refused)
    return {
        "format": check.format,
        "files": [{**asdict(file), "sha256": hashes[file.path]} for file in check.files],
        "bad_rows": [[bad.file, bad.line, bad.reason] for bad in bad_rows],
        "template": {"origin": template.source.origin, "name": template.source.name},
    }
