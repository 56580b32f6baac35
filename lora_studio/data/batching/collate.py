"""Rows to one padded micro-batch, as numpy arrays; what makes tensors of them is the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_studio.data.token_rows import TokenRow

IGNORED_LABEL = -100  # torch's cross_entropy leaves this label out by default


@dataclass(frozen=True)
class MicroBatch:
    """Rows padded on the right to one length; every array has the shape (rows, length).

    Attributes:
        input_ids: Token ids, `pad_id` beyond a row's end.
        attention_mask: 1 on a row's tokens, 0 on padding.
        position_ids: 0, 1, 2, … along each document; 0 on padding.
        document_ids: Which document of its row a token is of, from 1 on; 0 on padding. A row that is not packed is one document.
        trained: Where the token itself is one to learn.
        labels: The token's id where trained, else -100; not shifted, as transformers expects them.
        packed: Whether some row holds several documents, which must not attend to each other.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    trained: NDArray[np.bool_]
    labels: NDArray[np.int64]
    packed: bool


def collate(rows: Sequence[TokenRow], pad_id: int, multiple: int = 1) -> MicroBatch:
    """Pad rows to one length, the least that is a `multiple`."""
    length = -(-max(row.input_ids.size for row in rows) // multiple) * multiple
    shape = (len(rows), length)
    lengths = np.array([row.input_ids.size for row in rows])
    inside = np.arange(length) < lengths[:, None]
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    trained = np.zeros(shape, dtype=np.bool_)
    input_ids[inside] = np.concatenate([row.input_ids for row in rows])
    trained[inside] = np.concatenate([row.trained for row in rows])
    starts = _starts(rows, shape)
    places = np.arange(length, dtype=np.int64)
    return MicroBatch(
        input_ids=input_ids,
        attention_mask=inside.astype(np.int64),
        position_ids=(places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)) * inside,
        document_ids=np.cumsum(starts, axis=1, dtype=np.int64) * inside,
        trained=trained,
        labels=np.where(trained, input_ids, IGNORED_LABEL),
        packed=any(row.borders for row in rows),
    )


def _starts(rows: Sequence[TokenRow], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Say where a document begins."""
    starts = np.zeros(shape, dtype=np.bool_)
    starts[:, 0] = True
    for number, row in enumerate(rows):
        starts[number, list(row.borders)] = True
    return starts
