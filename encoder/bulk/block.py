"""What every reader gives: consecutive rows of a file, the bad ones named, and the columns to keep beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from encoder.bulk.errors import BadRow

BLOCK_ROWS = 1024
BLOCK_BYTES = 1 << 20
MAX_RECORD = 16 << 20
"""Bytes of one line of JSONL, or of one record of CSV; a longer one is never held in memory."""

EMPTY = "has an empty text"
NO_TEXT = "has no text"
NOT_UTF8 = "is not UTF-8"


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows.

    Attributes:
        first: Number of the first row, from 1.
        texts: One a row; None where the row is bad.
        lines: Line of each row, from 1; None in Parquet.
        bad: The rows of which `texts` holds None.
        kept: pyarrow RecordBatch with as many rows, of the columns to keep; None while surveying.
        size: About how many bytes the rows take.
    """

    first: int
    texts: list[str | None]
    lines: list[int] | None
    bad: list[BadRow]
    kept: Any
    size: int


class Source(Protocol):
    """A file that is read as often as needed, each time from a chosen row on.

    Every method raises FileRefused for a file that cannot be read as what it should be.
    """

    def survey(self) -> Iterator[Block]:
        """Every row once, without kept columns; afterwards `schema` gives the pyarrow schema of those."""
        ...

    def schema(self) -> Any:
        """Schema of the kept columns, once `survey` has ended."""
        ...

    def blocks(self, schema: Any, start: int) -> Iterator[Block]:
        """Rows from number `start` on, with the kept columns in that schema."""
        ...

    def position(self) -> int:
        """Bytes of the file read so far by the newest iterator."""
        ...


def text_fault(value: object) -> str | None:
    """Why a value is no text to embed, None where it is one."""
    if value is None:
        return NO_TEXT
    if not isinstance(value, str):
        return "has a text that is not a string"
    return EMPTY if not value or value.isspace() else None
