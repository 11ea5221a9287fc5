"""Windows of rows: what is sorted by length, computed, and written together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoder.bulk.block import Block
from encoder.bulk.errors import BadRow
from encoder.bulk.model import Vectors
from encoder.tokens import Tokenizer

FIRST_ROWS, WINDOW_ROWS = 1024, 8192
WINDOW_BYTES = 16 << 20
_CHUNK_ROWS = 512
_CHUNK_CHARACTERS = 1 << 20  # the tokenizer library takes some hundred bytes a token while it works

TOO_LONG = "has a text of more than {limit} tokens (--truncate cuts it)"


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive rows of the input, as they were read.

    Attributes:
        first: Number of the first row, from 1.
        texts: One a row; None where the row is bad.
        lines: Line of each row; None in Parquet.
        bad: The rows without a text.
        kept: pyarrow RecordBatch of the kept columns, with as many rows; None where none is kept.
    """

    first: int
    texts: list[str | None]
    lines: list[int] | None
    bad: list[BadRow]
    kept: Any


@dataclass(frozen=True, slots=True)
class Tokens:
    """A window ready for the runtime.

    Attributes:
        window: The rows.
        where: Positions in the window of the rows to compute, (n,) int64.
        ids: Token ids of those rows.
        bad: Every bad row of the window, those with too long a text too.
    """

    window: Window
    where: npt.NDArray[np.int64]
    ids: list[list[int]]
    bad: list[BadRow]


@dataclass(frozen=True, slots=True)
class Done:
    """A computed window.

    Attributes:
        first, rows: The rows it covers.
        where: Positions of the rows that have vectors, (n,) int64.
        embedding: (n, d) float32.
        base: (n, d) float32; None where base vectors are not stored.
        kept: pyarrow RecordBatch of the kept columns, `rows` long; None where none is kept.
        bad: The other rows.
        tokens: Tokens embedded.
    """

    first: int
    rows: int
    where: npt.NDArray[np.int64]
    embedding: Vectors
    base: Vectors | None
    kept: Any
    bad: list[BadRow]
    tokens: int


def windows(blocks: Iterable[Block], rows: int = WINDOW_ROWS, size: int = WINDOW_BYTES) -> Iterator[Window]:
    """Blocks put together until they have so many rows or bytes: bounded memory however long the texts are.

    The first windows of a file are smaller, so that the runtime does not wait until a whole one is tokenised. Where a
    window ends follows from where it begins: a run that is gone on with makes the windows it would have made.
    """
    gathered: list[Block] = []
    for block in blocks:
        gathered.append(block)
        enough = min(rows, gathered[0].first - 1 + FIRST_ROWS)
        if sum(len(b.texts) for b in gathered) >= enough or sum(b.size for b in gathered) >= size:
            yield _joined(gathered)
            gathered = []
    if gathered:
        yield _joined(gathered)


def tokenize(window: Window, tokenizer: Tokenizer, truncate: bool) -> Tokens:
    """Token ids of a window's texts; one that is too long becomes a bad row unless it may be cut."""
    where: list[int] = []
    ids: list[list[int]] = []
    bad = list(window.bad)
    positions = [index for index, text in enumerate(window.texts) if text is not None]
    for chunk in _chunks(window.texts, positions):
        tokens = tokenizer.encode([text for index in chunk if (text := window.texts[index]) is not None], truncate=True)
        for index, row, cut in zip(chunk, tokens.ids, tokens.truncated, strict=True):
            if cut and not truncate:
                line = None if window.lines is None else window.lines[index]
                bad.append(BadRow(window.first + index, line, TOO_LONG.format(limit=tokenizer.max_tokens)))
            else:
                where.append(index)
                ids.append(row)
    bad.sort(key=lambda row: row.row)
    return Tokens(window, np.array(where, dtype=np.int64), ids, bad)


def too_long(block: Block, tokenizer: Tokenizer) -> list[BadRow]:
    """The rows of a block whose text has more tokens than the model reads.

    Only texts of as many bytes as tokens are allowed are tokenised. Nearly every tokenizer makes at most one token of a
    byte; a row that escapes this look is found when it is computed.
    """
    long = [
        (index, text)
        for index, text in enumerate(block.texts)
        if text is not None and len(text) * (1 if text.isascii() else 3) >= tokenizer.max_tokens - 2
    ]
    if not long:
        return []
    lines = None if block.lines is None else [block.lines[index] for index, _ in long]
    found = tokenize(Window(1, [text for _, text in long], lines, [], None), tokenizer, truncate=False).bad
    return [BadRow(block.first + long[row.row - 1][0], row.line, row.why) for row in found]


def _joined(blocks: list[Block]) -> Window:
    lines = None
    if blocks[0].lines is not None:
        lines = [line for block in blocks for line in block.lines or ()]
    kept = None
    if blocks[0].kept is not None:
        kept = pa.concat_batches([block.kept for block in blocks])
    texts = [text for block in blocks for text in block.texts]
    return Window(blocks[0].first, texts, lines, [row for block in blocks for row in block.bad], kept)


def _chunks(texts: Sequence[str | None], positions: Sequence[int]) -> Iterator[list[int]]:
    chunk: list[int] = []
    characters = 0
    for index in positions:
        chunk.append(index)
        characters += len(texts[index] or "")
        if len(chunk) >= _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
