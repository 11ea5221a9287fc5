"""JSONL as a source: one object a line, each line read for itself, so that a bad one spoils no other."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from encoder.bulk.block import BLOCK_BYTES, BLOCK_ROWS, MAX_RECORD, NOT_UTF8, Block, text_fault
from encoder.bulk.errors import BadRow, FileRefused
from encoder.bulk.lines import LineFile
from encoder.bulk.options import check_names

MAX_COLUMNS = 1000
_INT64 = range(-(2**63), 2**63)


class Jsonl:
    """A JSONL file; see `encoder.bulk.block.Source`.

    The type of a kept column follows from all its values: true or false, whole numbers, numbers (float64,
    whole ones beyond 2**53 rounded to it), or strings.
    In a column of several kinds, or with lists or objects, every value that is not a string becomes its JSON text.
    """

    def __init__(self, path: Path, compression: str | None, text_column: str, keep: Sequence[str] | None) -> None:
        self._file = LineFile(path, compression)
        self._text = text_column
        self._keep = keep
        self._kinds: dict[str, set[str]] = {} if keep is None else {name: set() for name in keep}
        self._seen: set[str] = set()

    def survey(self) -> Iterator[Block]:
        """Every row once, without kept columns."""
        seen_text = False
        for block in self._blocks(None, 1):
            seen_text = seen_text or any(text is not None for text in block.texts)
            yield block
        if not seen_text and self._text not in self._seen:
            raise FileRefused(f"no row has a field {self._text}; name the field with the texts with --text-column")
        for name in self._keep or ():
            if name not in self._seen:
                raise FileRefused(f"no row has a field {name}, which was to be kept")
        check_names(tuple(self._kinds))

    def schema(self) -> pa.Schema:
        """Schema of the kept columns, once `survey` has ended."""
        return pa.schema([pa.field(name, _type(kinds)) for name, kinds in self._kinds.items()])

    def blocks(self, schema: pa.Schema, start: int) -> Iterator[Block]:
        """Rows from number `start` on, with the kept columns in that schema."""
        return self._blocks(schema, start)

    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._file.position()

    def _blocks(self, schema: pa.Schema | None, start: int) -> Iterator[Block]:
        number = start - 1
        gathered = _Gathered(start, schema)
        for line, content in self._rows(start):
            number += 1
            found, why = _parsed(content)
            text = found.get(self._text)
            why = why or text_fault(text)
            if schema is None:
                self._observe(found)
            gathered.take(number, line, found, text, why, len(content or b""))
            if gathered.full():
                yield gathered.block()
                gathered = _Gathered(number + 1, schema)
        if gathered.texts:
            yield gathered.block()

    def _rows(self, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Lines that are not blank, the rows before `start` left out."""
        skip = start - 1
        for line, content in self._file.lines():
            if content is not None:
                if line == 1 and content.lstrip()[:1] == b"[":
                    raise FileRefused("the file is one JSON array; JSONL has one object a line")
                if content.isspace():
                    continue
            if skip:
                skip -= 1
            else:
                yield line, content

    def _observe(self, found: dict[str, Any]) -> None:
        if self._keep is None:
            for name, value in found.items():
                self._kinds.setdefault(name, set()).add(_kind(value))
            if len(self._kinds) > MAX_COLUMNS:
                raise FileRefused(f"the rows have more than {MAX_COLUMNS} different fields; name those to keep")
        else:
            for name in self._keep:
                self._kinds[name].add(_kind(found.get(name)))
        if len(self._seen) <= MAX_COLUMNS:
            self._seen.update(found)


class _Gathered:
    """The rows of one block while they come in."""

    def __init__(self, first: int, schema: pa.Schema | None) -> None:
        self.first = first
        self.texts: list[str | None] = []
        self._schema = schema
        self._lines: list[int] = []
        self._bad: list[BadRow] = []
        self._columns: list[list[Any]] = [] if schema is None else [[] for _ in schema]
        self._size = 0

    def take(self, number: int, line: int, found: dict[str, Any], text: Any, why: str | None, size: int) -> None:
        if why is None:
            self.texts.append(text)
        else:
            self.texts.append(None)
            self._bad.append(BadRow(number, line, why))
        self._lines.append(line)
        self._size += size
        if self._schema is not None:
            for name, values in zip(self._schema.names, self._columns, strict=True):
                values.append(found.get(name))

    def full(self) -> bool:
        return len(self.texts) >= BLOCK_ROWS or self._size >= BLOCK_BYTES

    def block(self) -> Block:
        kept = None
        if self._schema:
            arrays = [_array(values, field.type) for values, field in zip(self._columns, self._schema, strict=True)]
            kept = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return Block(self.first, self.texts, self._lines, self._bad, kept, self._size)


def _parsed(content: bytes | None) -> tuple[dict[str, Any], str | None]:
    """The object on a line, or an empty one and why there is none."""
    if content is None:
        return {}, f"is longer than {MAX_RECORD >> 20} MiB"
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            return {}, NOT_UTF8
        return {}, "is not JSON" if content.endswith(b"\n") else "is cut off: the last line is not complete JSON"
    return (found, None) if isinstance(found, dict) else ({}, "is not a JSON object")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int" if value in _INT64 else "other"
        case float():
            return "float"
        case str():
            return "str"
        case _:
            return "other"


def _type(kinds: set[str]) -> pa.DataType:
    match kinds - {"null"}:
        case found if found == {"bool"}:
            return pa.bool_()
        case found if found == {"int"}:
            return pa.int64()
        case found if found and found <= {"int", "float"}:
            return pa.float64()
        case _:
            return pa.string()


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        values = [
            value if value is None or isinstance(value, str) else orjson.dumps(value).decode() for value in values
        ]
    elif pa.types.is_floating(kind):  # Arrow takes no whole number that float64 cannot hold exactly
        values = [float(value) if type(value) is int else value for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise FileRefused("the file changed while it was read") from error
