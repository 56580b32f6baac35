"""A tokenized data set in a folder: flat arrays that are mapped, not read, and a manifest that says what they are.

Rows are stored whole. Cutting, splitting and packing are views, so none of those settings tokenizes anything again.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from lora_studio.data.token_rows import Mask, Numbers, TokenBlock, TokenIds, TokenRows
from lora_studio.data.tokens.lengths import LengthTable

VERSION = 4
MANIFEST, INPUT_IDS, TRAINED = "manifest.json", "input_ids.bin", "trained.bin"
PLACES, COUNTS, CONTENTS = "places.npy", "trained_counts.npy", "contents.npy"


class StoreError(Exception):
    """A folder holds no whole data set."""


class StoreWriter:
    """Writes rows as they come; memory holds a few numbers a row."""

    def __init__(self, folder: Path) -> None:
        """Begin in an empty folder."""
        self._folder = folder
        self._files: tuple[BinaryIO, BinaryIO] = ((folder / INPUT_IDS).open("wb"), (folder / TRAINED).open("wb"))
        self._numbers = {name: array("q") for name in ("length", "first", "count", "file", "line", "turns", "content")}
        self._trained_at = np.zeros(1024, dtype=np.int64)
        self._digests = (hashlib.sha256(), hashlib.sha256())

    def add(self, block: TokenBlock, places: Sequence[tuple[int, int, int]]) -> None:
        """Write a block of rows, each with the number of its file, its line, and how many of its turns it has (0 for all of them)."""
        ends = np.cumsum(block.sizes)
        starts = ends - block.sizes
        trained = np.flatnonzero(block.trained)
        before = np.searchsorted(trained, np.stack([starts, ends]))  # trained tokens of the block before each row's start and end
        counts = before[1] - before[0]
        first = block.sizes.copy()
        first[counts > 0] = trained[before[0][counts > 0]] - starts[counts > 0]
        self._see(trained - np.repeat(starts, counts))
        placed = zip(("file", "line", "turns"), np.array(places).T)
        for name, values in (("length", block.sizes), ("first", first), ("count", counts), *placed):
            self._numbers[name].frombytes(values.astype(np.int64).tobytes())
        for start, end in zip(starts.tolist(), ends.tolist()):
            self._numbers["content"].frombytes(hashlib.blake2b(block.input_ids[start:end].data, digest_size=8).digest())
        for file, digest, values in zip(self._files, self._digests, (block.input_ids, block.trained)):
            file.write(values.data)
            digest.update(values.data)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the tables and the manifest; the folder is whole then."""
        self.close()
        numbers = {name: np.array(values, dtype=np.int64) for name, values in self._numbers.items()}
        longest = int(numbers["length"].max(initial=0))
        LengthTable(numbers["length"], numbers["first"], self._trained_at[:longest]).save(self._folder)
        np.save(self._folder / PLACES, np.stack([numbers["file"], numbers["line"], numbers["turns"]]), allow_pickle=False)
        np.save(self._folder / COUNTS, numbers["count"], allow_pickle=False)
        np.save(self._folder / CONTENTS, numbers["content"], allow_pickle=False)
        digest = hashlib.sha256(numbers["length"].tobytes())
        for part in self._digests:
            digest.update(part.digest())
        sizes = {path.name: path.stat().st_size for path in self._folder.iterdir()}
        whole = {**manifest, "version": VERSION, "fingerprint": digest.hexdigest(), "sizes": sizes}
        (self._folder / MANIFEST).write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")

    def close(self) -> None:
        """Close the files that grow."""
        for file in self._files:
            file.close()

    def _see(self, places: NDArray[np.int64]) -> None:
        """Count trained tokens by their place in their row."""
        seen = np.bincount(places, minlength=self._trained_at.size)
        seen[: self._trained_at.size] += self._trained_at
        self._trained_at = seen


@dataclass(frozen=True)
class TokenStore:
    """A tokenized data set, opened.

    Attributes:
        folder: Where it is.
        manifest: What it was made of.
        lengths: Every row's lengths before cutting.
        places: Number of the file, line, and turns of each row (0 for all it has), shape (3, rows).
        counts: Trained tokens of each row before cutting, shape (rows,).
        contents: A number that rows of the same tokens share, shape (rows,).
        input_ids: All ids, mapped from disk, shape (tokens,).
        trained: Which are trained, mapped from disk, shape (tokens,).
    """

    folder: Path
    manifest: dict[str, Any]
    lengths: LengthTable
    places: Numbers
    counts: Numbers
    contents: Numbers
    input_ids: TokenIds
    trained: Mask

    def select(self, rows: Numbers, max_length: int) -> TokenRows:
        """Return some rows, cut to a length."""
        starts = np.cumsum(self.lengths.lengths) - self.lengths.lengths
        kept = np.minimum(self.lengths.lengths[rows], max_length)
        counts = self.counts[rows].copy()
        for place in np.flatnonzero(self.lengths.lengths[rows] > max_length):
            start = int(starts[rows[place]])
            counts[place] = np.count_nonzero(self.trained[start : start + max_length])
        text = f"{self.manifest['fingerprint']} {max_length} {hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()}"
        return TokenRows(self.input_ids, self.trained, starts[rows], kept, counts, hashlib.sha256(text.encode()).hexdigest())


def open_store(folder: Path) -> TokenStore:
    """Open a stored data set; its arrays are mapped, so this costs the same for any size.

    Raises:
        StoreError: It is missing, cut or not of this version.
    """
    try:
        manifest = cast("dict[str, Any]", json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        if manifest["version"] != VERSION:
            raise StoreError(f"{folder} is of another version")
        for name, size in manifest["sizes"].items():
            if (folder / name).stat().st_size != size:
                raise StoreError(f"{folder / name} is cut")
        lengths = LengthTable.open(folder)
        places, counts, contents = (np.load(folder / name, allow_pickle=False) for name in (PLACES, COUNTS, CONTENTS))
        ids, trained = _mapped(folder / INPUT_IDS, np.int32), _mapped(folder / TRAINED, np.bool_)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder} cannot be read: {error}") from error
    if not (ids.size == trained.size == int(lengths.lengths.sum())):
        raise StoreError(f"{folder} has arrays that do not belong together")
    return TokenStore(folder, manifest, lengths, places, counts, contents, ids, trained)


def _mapped(path: Path, kind: type[np.generic]) -> NDArray[Any]:
    if not path.stat().st_size:
        return np.empty(0, kind)
    return np.memmap(path, dtype=kind, mode="r")
