"""What a bulk run is asked to do, and what becomes of a row that cannot be embedded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from encoder.bulk.errors import FileRefused

ROW, EMBEDDING, BASE = "row", "embedding", "base"
RESERVED = (ROW, EMBEDDING, BASE)
"""Columns this package writes; no kept column may have such a name."""


class OnError(StrEnum):
    """What becomes of a row that cannot be embedded."""

    REFUSE = "refuse"
    SKIP = "skip"
    NULL = "null"


class Format(StrEnum):
    """Kinds of input; the first two may be compressed with gzip or zstd."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_ENDINGS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a file is read and what is written of it.

    Attributes:
        format: Kind of the input; None tells it by the file's ending.
        text_column: Column with the texts.
        id_column: A column that identifies a row; it is kept, as the first one.
        keep: Other columns to keep; None keeps every column.
        truncate: Cut a text that is too long, where it would be a bad row otherwise.
        on_error: What becomes of a bad row.
        base: Store the base vectors too; None does where the model is a head adapter.
    """

    format: Format | None = None
    text_column: str = "text"
    id_column: str | None = None
    keep: tuple[str, ...] | None = ()
    truncate: bool = False
    on_error: OnError = OnError.REFUSE
    base: bool | None = None

    def wanted(self) -> tuple[str, ...] | None:
        """Columns to keep, each once, the id first; None for all.

        Raises:
            FileRefused: One has a name that this package writes itself.
        """
        names = () if self.id_column is None else (self.id_column,)
        if self.keep is not None:
            names = tuple(dict.fromkeys((*names, *self.keep)))
        check_names(names)
        return None if self.keep is None else names

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Options":
        """Read what `to_dict` gave."""
        keep = value["keep"]
        return cls(
            **{
                **value,
                "format": None if value["format"] is None else Format(value["format"]),
                "keep": None if keep is None else tuple(keep),
                "on_error": OnError(value["on_error"]),
            }
        )

    def may_follow(self, earlier: "Options") -> bool:
        """Whether a run with these options may go on with what one with `earlier` left.

        A run that leaves out no row and cuts none has done nothing that gentler options would have done otherwise.
        """
        if earlier.on_error is OnError.REFUSE and not earlier.truncate:
            earlier = replace(earlier, on_error=self.on_error, truncate=self.truncate)
        return self == earlier


def check_names(names: tuple[str, ...]) -> None:
    """See that kept columns collide with none that is written.

    Raises:
        FileRefused: One does.
    """
    for name in names:
        if name in RESERVED:
            raise FileRefused(
                f"a column named {name} cannot be kept: the output has one of that name itself; "
                "rename it, or name the columns to keep with --keep"
            )


def tell_format(path: Path, given: Format | None) -> tuple[Format, str | None]:
    """Kind and compression ("gzip", "zstd" or None) of a file, by its name.

    Raises:
        FileRefused: The ending says nothing and no format was given, or Parquet is wrapped in a compression.
    """
    compression = _COMPRESSED.get(path.suffix.lower())
    inner = path.with_suffix("") if compression else path
    found = given or _ENDINGS.get(inner.suffix.lower())
    if found is None:
        raise FileRefused("the format cannot be told from the file's name; give --format jsonl, csv or parquet")
    if found is Format.PARQUET and compression:
        raise FileRefused("Parquet compresses its own pages; unpack the file first")
    return found, compression
