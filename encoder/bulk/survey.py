"""A first look at the whole input, before anything is computed: which file it is, its rows, its bad rows, its types.

Reading is hundreds of times faster than computing, so the price is small, and a fault in the last row shows at once.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoder.bulk.block import Source
from encoder.bulk.columnar import Parquet
from encoder.bulk.delimited import Csv
from encoder.bulk.errors import SHOWN_ROWS, BadRow, FileRefused
from encoder.bulk.jsonl import Jsonl
from encoder.bulk.options import Format, OnError, Options, tell_format
from encoder.bulk.window import Window, too_long, windows
from encoder.tokens import Tokenizer

Watch = Callable[[str, int, int], None]
"""Called with what is being done ("checking" or "embedding"), how much of it is done, and how much there is."""

_EDGE = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """Which bytes a file holds.

    Attributes:
        size: In bytes.
        mtime_ns: When it was last changed, in nanoseconds.
        edges: sha256 of its first and its last MiB.
        sha256: Of all its bytes.
    """

    size: int
    mtime_ns: int
    edges: str
    sha256: str

    @classmethod
    def of(cls, path: Path, known: Mapping[str, Any] | None = None) -> "Identity":
        """Of a file as it is now; `known` saves the reading where size, time and edges are as they were.

        Raises:
            FileRefused: The file cannot be read.
        """
        try:
            with path.open("rb") as file:
                status = path.stat()
                edges = hashlib.sha256(file.read(_EDGE))
                file.seek(max(0, status.st_size - _EDGE))
                edges.update(file.read())
                quick = (status.st_size, status.st_mtime_ns, edges.hexdigest())
                if known is not None and quick == (known["size"], known["mtime_ns"], known["edges"]):
                    return cls(*quick, known["sha256"])
                file.seek(0)
                return cls(*quick, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise FileRefused(f"the input cannot be read: {error.strerror}") from error

    def require_unchanged(self, path: Path) -> None:
        """See that the file was not written to meanwhile.

        Raises:
            FileRefused: It was.
        """
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise FileRefused("the input changed while it was embedded; nothing was published")


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first look found.

    Attributes:
        rows: Rows of the file.
        bad: How many of them cannot be embedded, as far as that was looked for.
        examples: The first of those.
        schema: pyarrow schema of the kept columns.
    """

    rows: int
    bad: int
    examples: list[BadRow]
    schema: pa.Schema

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        schema = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return {"rows": self.rows, "bad": self.bad, "examples": list(map(asdict, self.examples)), "schema": schema}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Survey":
        """Read what `to_dict` gave."""
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value["schema"])))
        return cls(value["rows"], value["bad"], [BadRow(**row) for row in value["examples"]], schema)


@dataclass(frozen=True, slots=True)
class Task:
    """What an engine is to read: rows of a file from `start` on, kept columns in `schema`, base vectors or not."""

    path: Path
    options: Options
    schema: pa.Schema
    start: int
    base: bool

    def windows(self) -> Iterator[Window]:
        """The rows."""
        return windows(open_source(self.path, self.options).blocks(self.schema, self.start))


def open_source(path: Path, options: Options) -> Source:
    """The reader for a file.

    Raises:
        FileRefused: Its format is not known, or a column cannot be kept.
    """
    kind, compression = tell_format(path, options.format)
    keep = options.wanted()
    match kind:
        case Format.JSONL:
            return Jsonl(path, compression, options.text_column, keep)
        case Format.CSV:
            return Csv(path, compression, options.text_column, keep)
        case Format.PARQUET:
            return Parquet(path, options.text_column, keep)


def survey(path: Path, options: Options, tokenizer: Tokenizer, watch: Watch) -> Survey:
    """Read every row once.

    Texts that are too long are looked for only where they would end the run.

    Raises:
        FileRefused: The file cannot be read, lacks a column, or has no rows.
    """
    source = open_source(path, options)
    size = path.stat().st_size
    measure = options.on_error is OnError.REFUSE and not options.truncate
    rows = bad = 0
    examples: list[BadRow] = []
    for block in source.survey():
        rows += len(block.texts)
        found = block.bad
        if measure:
            found = sorted([*found, *too_long(block, tokenizer)], key=lambda row: row.row)
        bad += len(found)
        examples += found[: SHOWN_ROWS - len(examples)]
        watch("checking", source.position(), size)
    if not rows:
        raise FileRefused("the file has no rows")
    return Survey(rows, bad, examples, source.schema())
