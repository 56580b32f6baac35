"""Rows of files to a stored data set: read, render, tokenize, write, a block at a time.

Reading, rendering (in the child), encoding (in a thread that needs no interpreter) and writing go on side by side, each at a block
of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import DataCheck, DatasetScan, refuse_bad_rows
from lora_studio.data.readers.encodings import FIELD
from lora_studio.data.readers.files import ProgressCallback, file_readers
from lora_studio.data.rows.row import BadRow, Row, RowError
from lora_studio.data.templates.template import ChatTemplate, Rendered, trained_parts
from lora_studio.data.templates.template_notes import TemplateNotes
from lora_studio.data.token_rows import TokenBlock
from lora_studio.data.tokens.encode import Encoder
from lora_studio.data.tokens.token_cache import hashes_of, key_of, stored
from lora_studio.data.tokens.token_store import StoreWriter, TokenStore
from lora_studio.data.trainable import REFUSED, refuse_untrainable

ROWS_AT_ONCE = 512
_CHARACTERS_AT_ONCE = 4_000_000  # of a few long rows, a block holds fewer
_KEY_SETTINGS = ("train", "eval", "format", "columns", "encoding", "train_on")


@dataclass
class _Block:
    rows: list[Row] = field(default_factory=list[Row])
    characters: int = 0


def stored_tokens(
    settings: DataSettings,
    tokenizer: Any,
    template: ChatTemplate,
    encoder: Encoder,
    progress: ProgressCallback | None = None,
) -> tuple[TokenStore, bool]:
    """Return a data set's tokens, whole and unsplit: from the cache where nothing they depend on has changed, else made now.

    Args:
        settings: The files, and how to read them.
        tokenizer: The fast tokenizer `encoder` works with; a part of the key.
        template: The chat template, likewise.
        encoder: Turns text into tokens.
        progress: Called with bytes read and bytes in all, as `DatasetScan` does; with (0, 0) while files are hashed before.

    Returns:
        The tokens, and whether they were in the cache.

    Raises:
        InputError: A file or row is bad (`on_bad_rows: stop`), or the rows cannot be rendered.
    """
    files = {reader.path: reader.where for _split, reader in file_readers(settings)}
    hashes = hashes_of(files, (lambda: progress(0, 0)) if progress else lambda: None)
    shape = settings.model_dump(mode="json", include=set(_KEY_SETTINGS))
    key = key_of({"settings": shape, "files": hashes, "template": template.identity, "tokenizer": encoder.identity(tokenizer)})

    def build(folder: Path) -> None:
        counting = DatasetScan(settings, progress)
        writer = StoreWriter(folder)
        try:
            refused, unended, notes = _write_rows(settings, counting, template, encoder, writer)
            check = counting.result()
            refuse_untrainable(check)
            if settings.on_bad_rows == "stop":
                refuse_bad_rows(check.bad_rows, check.bad_count, check.encoding_offer)
            _refuse_change(files, hashes)
            writer.finish(
                {
                    **_manifest(check, refused, hashes, template),
                    "unended_rows": unended,
                    "template_notes": notes.to_json(),
                    "ends": {"cure": notes.end_cure, "last": notes.ends_last, "token": str(tokenizer.eos_token or "")},
                }
            )
        finally:
            writer.close()

    return stored(key, build)


def _refuse_change(files: Mapping[str, Path], before: Mapping[str, str]) -> None:
    """Raise `InputError` for a file that was written to while it was read: its rows would stand under another content's name."""
    local = {name: path for name, path in files.items() if path.is_file()}
    for name, digest in hashes_of(local).items():
        if digest != before[name]:
            raise InputError(f"{name} was changed while it was read.", "Start again once it is written whole.", FIELD)


def _write_rows(
    settings: DataSettings,
    counting: DatasetScan,
    template: ChatTemplate,
    encoder: Encoder,
    writer: StoreWriter,
) -> tuple[list[BadRow], int, TemplateNotes]:
    """Write every sound row; give those the template refuses, how many train no end, and what else there is to say of them."""
    numbers = {reader.path: number for number, (_split, reader) in enumerate(counting.readers)}
    refused: list[BadRow] = []
    unended = 0
    notes = TemplateNotes()
    with closing(_encoded_blocks(settings, counting, template, encoder)) as blocks:
        for rows, rendered, tokens in blocks:
            refused += [BadRow(row.file, row.line, str(fault)) for row, fault in zip(rows, rendered) if isinstance(fault, RowError)]
            notes.add(rows, rendered)
            whole = settings.train_on != "each"
            sound = [row for row, text in zip(rows, rendered) if isinstance(text, Rendered)]
            places = [(numbers[row.file], row.line, 0 if whole else len(row.messages)) for row in sound]
            if places:
                writer.add(tokens, places)
                unended += encoder.unended(tokens) + sum(
                    text.open_inside - text.opens_behind for text in rendered if isinstance(text, Rendered)
                )
    return refused, unended, notes


def _encoded_blocks(
    settings: DataSettings,
    counting: DatasetScan,
    template: ChatTemplate,
    encoder: Encoder,
) -> Generator[tuple[list[Row], list[Rendered | RowError], TokenBlock]]:
    """Return each block with its texts and their tokens; while one is encoded, the next is read and the last one written."""
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoding:
        waiting: tuple[list[Row], list[Rendered | RowError], Future[TokenBlock]] | None = None
        for rows, rendered in _rendered_blocks(settings, counting, template):
            texts = [text for text in rendered if isinstance(text, Rendered)]
            begun = encoding.submit(encoder.encode, texts)
            if waiting is not None:
                yield waiting[0], waiting[1], waiting[2].result()
            waiting = rows, rendered, begun
        if waiting is not None:
            yield waiting[0], waiting[1], waiting[2].result()


def _rendered_blocks(
    settings: DataSettings,
    counting: DatasetScan,
    template: ChatTemplate,
) -> Iterator[tuple[list[Row], list[Rendered | RowError]]]:
    """Return each block with its texts, the child being busy with the next one by then."""
    waiting: list[Row] = []
    for rows in _blocks(settings, counting):
        if waiting:
            done = template.receive()
            template.send(rows, settings.train_on)
            yield waiting, done
        else:
            template.send(rows, settings.train_on)
        waiting = rows
    if waiting:
        yield waiting, template.receive()


def _blocks(settings: DataSettings, counting: DatasetScan) -> Iterator[list[Row]]:
    """Return sound rows by the block; none once a row was seen that is reason to refuse them all, which are then only counted."""
    block = _Block()
    hopeless = False
    for row in counting.rows():
        hopeless = hopeless or row.format in REFUSED or (counting.bad_count > 0 and settings.on_bad_rows == "stop")
        if hopeless:
            continue
        for part in trained_parts(row, settings.train_on):
            block.rows.append(part)
            block.characters += len(part.text) + sum(len(message.content) for message in part.messages)
            if len(block.rows) == ROWS_AT_ONCE or block.characters > _CHARACTERS_AT_ONCE:
                yield block.rows
                block = _Block()
    if block.rows and not hopeless:
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
