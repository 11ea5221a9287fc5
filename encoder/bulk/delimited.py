"""CSV as a source: comma, semicolon or tab, a first row that names the columns, every kept cell as the string it is."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from encoder.bulk.block import BLOCK_BYTES, BLOCK_ROWS, MAX_RECORD, NOT_UTF8, Block, text_fault
from encoder.bulk.errors import BadRow, FileRefused
from encoder.bulk.lines import LineFile
from encoder.bulk.options import check_names

_DELIMITERS = (",", ";", "\t")


class Csv:
    """A CSV file; see `encoder.bulk.block.Source`.

    A row with more or fewer fields than the header is bad. A broken quotation ends the reading, because what follows
    it would be read out of step.
    """

    def __init__(self, path: Path, compression: str | None, text_column: str, keep: Sequence[str] | None) -> None:
        self._file = LineFile(path, compression)
        self._text = text_column
        self._keep = keep
        self._names: list[str] = []
        self._record = 0

    def survey(self) -> Iterator[Block]:
        """Every row once, without kept columns."""
        return self._blocks(None, 1)

    def schema(self) -> pa.Schema:
        """Schema of the kept columns, once `survey` has ended: all of them strings."""
        names = self._names if self._keep is None else self._keep
        return pa.schema([pa.field(name, pa.string()) for name in names])

    def blocks(self, schema: pa.Schema, start: int) -> Iterator[Block]:
        """Rows from number `start` on, with the kept columns in that schema."""
        return self._blocks(schema, start)

    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._file.position()

    def _blocks(self, schema: pa.Schema | None, start: int) -> Iterator[Block]:
        rows = self._rows()
        _, header = next(rows, (0, []))
        where, at = self._columns(header)
        gathered = _Gathered(start, len(at))
        number = 0
        for line, cells in rows:
            number += 1
            if number < start:
                continue
            why = None
            if len(cells) != len(header):
                why = f"has {len(cells)} fields, the header names {len(header)}"
                why += " (a delimiter in a text needs quotes)" if len(cells) > len(header) else ""
            elif not all(_is_utf8(cells[index]) for index in (where, *at)):
                why = NOT_UTF8
            if why is None:
                gathered.take(number, line, cells[where], text_fault(cells[where]), [cells[index] for index in at])
            else:
                gathered.take(number, line, None, why, [None] * len(at))
            if gathered.full():
                yield gathered.block(schema)
                gathered = _Gathered(number + 1, len(at))
        if gathered.texts:
            yield gathered.block(schema)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line and cells of each row that is not blank, the header first."""
        lines = self._decoded()
        first = next(lines)
        delimiter = self._delimiter(first)
        reader = csv.reader(_chain(first, lines), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            self._record = 0
            # The limit is the process's, so it is put back: a field here is bounded by the record's own limit.
            before = csv.field_size_limit(MAX_RECORD)
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise FileRefused(f"line {line}: {_reason(error)}; what follows it cannot be read") from None
            finally:
                csv.field_size_limit(before)
            if cells:
                yield line, cells

    def _decoded(self) -> Iterator[str]:
        """Lines as text; bytes that are not UTF-8 become lone surrogates, which `_is_utf8` finds in their row."""
        for number, content in self._file.lines():
            self._record += len(content or b"")
            if content is None or self._record > MAX_RECORD:
                raise FileRefused(
                    f"line {number}: the row is longer than {MAX_RECORD >> 20} MiB; is a quotation mark left open?"
                )
            yield content.decode("utf-8", "surrogateescape")

    def _delimiter(self, header: str) -> str:
        """The delimiter under which the header names the text column; a comma when none does."""
        for delimiter in _DELIMITERS:
            if delimiter in header and self._text in [_name(cell) for cell in header.split(delimiter)]:
                return delimiter
        return ","

    def _columns(self, header: Sequence[str]) -> tuple[int, list[int]]:
        """Places of the text column and of those to keep, as the header names them."""
        self._names = [_name(cell) for cell in header]
        if self._text not in self._names:
            raise FileRefused(
                f"the first row must name the columns: it has {len(header)} fields, and none is {self._text} "
                "(--text-column names another)"
            )
        wanted = self._names if self._keep is None else self._keep
        for name in (self._text, *wanted):
            if (count := self._names.count(name)) != 1:
                # Only a name the caller gave is repeated: without a header the first row is somebody's text.
                shown = "a column" if self._keep is None else f"the column {name}"
                raise FileRefused(f"the first row names {shown} {'twice' if count else 'nowhere'}")
        check_names(tuple(wanted))
        return self._names.index(self._text), [self._names.index(name) for name in wanted]


class _Gathered:
    """The rows of one block while they come in."""

    def __init__(self, first: int, columns: int) -> None:
        self.texts: list[str | None] = []
        self._first = first
        self._lines: list[int] = []
        self._bad: list[BadRow] = []
        self._columns: list[list[str | None]] = [[] for _ in range(columns)]
        self._size = 0

    def take(self, number: int, line: int, text: str | None, why: str | None, kept: list[str | None]) -> None:
        if why is not None:
            self._bad.append(BadRow(number, line, why))
        self.texts.append(text if why is None else None)
        self._lines.append(line)
        self._size += len(text or "")
        for values, cell in zip(self._columns, kept, strict=True):
            values.append(cell)
            self._size += len(cell or "")

    def full(self) -> bool:
        return len(self.texts) >= BLOCK_ROWS or self._size >= BLOCK_BYTES

    def block(self, schema: pa.Schema | None) -> Block:
        batch = None
        if schema:
            arrays = [pa.array(values, pa.string()) for values in self._columns]
            batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        return Block(self._first, self.texts, self._lines, self._bad, batch, self._size)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _name(cell: str) -> str:
    return re.sub(r'^\s*"?|"?\s*$', "", cell)


def _is_utf8(cell: str) -> bool:
    if cell.isascii():
        return True
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quotation opens that never ends"
    return "the row is not proper CSV (text after a closing quotation mark, or a lone carriage return)"
