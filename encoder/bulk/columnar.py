"""Parquet as a source: row groups streamed, kept columns passed on in their own types."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from encoder.bulk.block import BLOCK_ROWS, NOT_UTF8, Block, text_fault
from encoder.bulk.errors import BadRow, FileRefused
from encoder.bulk.options import check_names

_BUFFER = 1 << 20


class Parquet:
    """A Parquet file; see `encoder.bulk.block.Source`. Dictionary columns are kept as the values they stand for."""

    def __init__(self, path: Path, text_column: str, keep: Sequence[str] | None) -> None:
        self._path = path
        self._text = text_column
        self._keep = keep
        self._kept: list[pa.Field] = []
        self._done = 0

    def survey(self) -> Iterator[Block]:
        """Every row once, without kept columns."""
        with self._opened() as file:
            schema = file.schema_arrow
            names = schema.names
            wanted = names if self._keep is None else self._keep
            for name in (self._text, *wanted):
                if (count := names.count(name)) != 1:
                    raise FileRefused(f"the file has {'no' if not count else 'more than one'} column {name}")
            if not _is_text(schema.field(self._text).type):
                raise FileRefused(f"the column {self._text} does not hold strings")
            check_names(tuple(wanted))
            self._kept = [_plain(schema.field(name)) for name in wanted]
        return self._blocks(None, 1)

    def schema(self) -> pa.Schema:
        """Schema of the kept columns, once `survey` has begun."""
        return pa.schema(self._kept)

    def blocks(self, schema: pa.Schema, start: int) -> Iterator[Block]:
        """Rows from number `start` on, with the kept columns in that schema."""
        return self._blocks(schema, start)

    def position(self) -> int:
        """Bytes of the file read so far, from its row groups."""
        return self._done

    def _blocks(self, schema: pa.Schema | None, start: int) -> Iterator[Block]:
        kept = [] if schema is None else schema.names
        names = list(dict.fromkeys((self._text, *kept)))
        number = 1
        size = self._path.stat().st_size
        try:
            with self._opened() as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if number + rows <= start:
                        number += rows
                        continue
                    for batch in file.iter_batches(BLOCK_ROWS, row_groups=[group], columns=names):
                        skip = max(0, min(start - number, len(batch)))
                        number += len(batch)
                        if skip < len(batch):
                            yield self._block(batch.slice(skip), number - len(batch) + skip, schema)
                    self._done = size * (group + 1) // file.num_row_groups
        except (pa.ArrowException, OSError) as error:
            raise FileRefused(f"the file cannot be read as Parquet: {type(error).__name__}") from error

    def _block(self, batch: pa.RecordBatch, first: int, schema: pa.Schema | None) -> Block:
        values = _texts(batch.column(self._text))
        faults = [NOT_UTF8 if isinstance(value, bytes) else text_fault(value) for value in values]
        bad = [BadRow(first + index, None, why) for index, why in enumerate(faults) if why is not None]
        texts = [value if why is None else None for value, why in zip(values, faults, strict=True)]
        kept = None
        if schema:
            arrays = [_cast(batch.column(field.name), field.type) for field in schema]
            kept = pa.RecordBatch.from_arrays(arrays, schema=schema)
        return Block(first, texts, None, bad, kept, batch.nbytes)  # type: ignore[arg-type]

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, buffer_size=_BUFFER, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise FileRefused(f"the file cannot be read as Parquet: {type(error).__name__}") from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _plain(field: pa.Field) -> pa.Field:
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)


def _texts(array: pa.Array) -> list[str | bytes | None]:
    """The strings; bytes where they are not UTF-8."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    try:
        texts: list[str | bytes | None] = array.to_pylist()
    except UnicodeDecodeError:
        raw = array.cast(pa.large_binary()).to_pylist()
        texts = [value if value is None else _decoded(value) for value in raw]
    return texts


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
