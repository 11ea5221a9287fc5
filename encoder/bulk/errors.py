"""Everything that stops a bulk run, as exceptions that name rows, columns and limits and never repeat a text."""

from collections.abc import Sequence
from dataclasses import dataclass

from encoder.errors import EncoderError

SHOWN_ROWS = 20
"""Bad rows named in a message or a summary; further ones are counted."""


class BulkError(EncoderError):
    """Base of what a bulk run raises on purpose."""


class ExtraMissing(BulkError):
    """A package that only an optional extra installs is not here."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"this needs the package {package}; install it with: pip install 'driftline[{extra}]'")


class FileRefused(BulkError):
    """The input, the output or an option cannot be used as asked; no row was embedded."""


class ResumeRefused(BulkError):
    """What an earlier run left belongs to another input, model or set of options, or another run is at work on it."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be embedded.

    Attributes:
        row: Number of the data row, from 1; blank lines and a CSV header are not counted.
        line: Line of the file on which it starts, from 1; None in Parquet.
        why: The reason, without anything of the row's own.
    """

    row: int
    line: int | None
    why: str

    def __str__(self) -> str:
        place = f"row {self.row}" if self.line is None else f"row {self.row} (line {self.line})"
        return f"{place} {self.why}"


class RowsRefused(BulkError):
    """Rows that cannot be embedded, where none may be left out.

    Attributes:
        bad: The first of them.
        total: How many there are.
    """

    def __init__(self, bad: Sequence[BadRow], total: int, kept: str) -> None:
        self.bad = list(bad[:SHOWN_ROWS])
        self.total = total
        named = "; ".join(map(str, self.bad))
        more = f"; and {total - len(self.bad)} more" if total > len(self.bad) else ""
        super().__init__(f"{named}{more}. {kept}")


def need_pyarrow() -> None:
    """Look for pyarrow before anything is opened.

    Raises:
        ExtraMissing: It is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ExtraMissing("bulk", "pyarrow") from None
