"""The rows of a recorded stream: JSON lines, CSV or a matrix of vectors; a bad row is refused by number and field."""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitoring.errors import MonitoringError

MAX_TEXT: Final = 1_000_000
FORMATS: Final = (".jsonl", ".csv", ".npy")


class StreamRefused(MonitoringError, ValueError):
    """A recorded stream that cannot be read; the message names the row, from 1, and the field, never its content."""

    def __init__(self, why: str, row: int | None = None, field: str | None = None) -> None:
        place = ", ".join(part for part in (row and f"row {row}", field and f"field {field}") if part)
        super().__init__(f"{place}: {why}" if place else why)
        self.row = row
        self.field = field


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Rows in the order in which they are replayed: by their dates where they have dates, else as they stand.

    rows (n,): the number of each in the file, from 1. texts: n of them, or None where the rows are vectors (n, d)
    float32 of unit length. at, segments, labels: n entries each, or None where no row has one.
    """

    rows: tuple[int, ...]
    texts: tuple[str, ...] | None
    vectors: NDArray[np.float32] | None
    at: tuple[datetime, ...] | None
    segments: tuple[str | None, ...] | None
    labels: tuple[str | None, ...] | None

    def __len__(self) -> int:
        return len(self.rows)


def read_stream(name: str, data: bytes, text_field: str = "text", date_field: str = "at") -> Stream:
    """The stream in a file's bytes.

    Args:
        name: The file's name; its ending says what it is: .jsonl, .csv (perhaps .gz after it) or .npy.
        text_field, date_field: What the fields with the text and with the date are called.

    A row has `text`, or `vector` (a list of numbers; in CSV numbers with spaces between), and perhaps a date (ISO 8601,
    or seconds since 1970; without a zone it is UTC), `segment` and `label`. Other fields are passed over.

    Raises:
        StreamRefused: An ending that is not known, a row that is not valid, or rows of which some only have texts, or
            dates.
    """
    plain = name.lower().removesuffix(".gz")
    if plain.endswith(".npy"):
        return _matrix(data)
    if not plain.endswith((".jsonl", ".csv")):
        raise StreamRefused(f"a stream's name must end in one of {', '.join(FORMATS)}")
    try:
        text = (gzip.decompress(data) if name.lower().endswith(".gz") else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1 if plain == name.lower() else None
        raise StreamRefused("not UTF-8", row) from None
    except (OSError, EOFError) as error:
        raise StreamRefused(f"cannot be unpacked ({type(error).__name__})") from None
    found = _json_rows(text) if plain.endswith(".jsonl") else _csv_rows(text)
    return _ordered([_row(number, fields, text_field, date_field) for number, fields in found])


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    text: str | None
    vector: tuple[float, ...] | None
    at: datetime | None
    segment: str | None
    label: str | None


def _matrix(data: bytes) -> Stream:
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise StreamRefused(f"not a matrix of numbers ({type(error).__name__})") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not len(found):
        raise StreamRefused("a stream of vectors is a matrix (n, d) of floating numbers with at least one row")
    vectors = _unit(found.astype(np.float64), range(1, len(found) + 1))
    return Stream(tuple(range(1, len(found) + 1)), None, vectors, None, None, None)


def _json_rows(text: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    # Not splitlines: a text may hold other characters that it takes for an end of line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise StreamRefused("not JSON", number) from None
        if not isinstance(fields, dict):
            raise StreamRefused("not a JSON object", number)
        yield number, fields


def _csv_rows(text: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        for number, fields in enumerate(reader, 1):
            if None in fields:
                raise StreamRefused("more values than the header has columns", number)
            yield number, {name: value for name, value in fields.items() if value not in (None, "")}
    except csv.Error:
        raise StreamRefused("not CSV", number + 1) from None


def _row(number: int, fields: Mapping[str, Any], text_field: str, date_field: str) -> _Row:
    text, vector = fields.get(text_field), fields.get("vector")
    if (text is None) == (vector is None):
        raise StreamRefused("a row has a text or a vector, one of the two", number, text_field)
    if text is not None and not (isinstance(text, str) and text.strip() and len(text) <= MAX_TEXT):
        raise StreamRefused(f"must be a text of 1 to {MAX_TEXT:,} characters", number, text_field)
    at = fields.get(date_field)
    return _Row(
        number,
        text,
        None if vector is None else _numbers(number, vector),
        None if at is None else _date(number, date_field, at),
        _word(number, "segment", fields.get("segment")),
        _word(number, "label", fields.get("label")),
    )


def _numbers(number: int, value: Any) -> tuple[float, ...]:
    given = value.split() if isinstance(value, str) else value
    try:
        found = tuple(float(v) for v in given) if isinstance(given, list) else ()
    except (TypeError, ValueError):
        found = ()
    if not found or not all(math.isfinite(v) for v in found) or any(isinstance(v, bool) for v in given):
        raise StreamRefused("must be a list of finite numbers", number, "vector")
    return found


def _date(number: int, name: str, value: Any) -> datetime:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        raise StreamRefused("must be a date as in ISO 8601, or seconds since 1970", number, name) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _word(number: int, name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise StreamRefused("must be a text of 1 to 256 characters", number, name)
    return value


def _ordered(found: list[_Row]) -> Stream:
    if not found:
        raise StreamRefused("there is no row")
    texts, dated = found[0].text is not None, found[0].at is not None
    for row in found:
        if (row.text is not None) != texts:
            raise StreamRefused("the rows before have the other of text and vector", row.number)
        if (row.at is not None) != dated:
            raise StreamRefused("every row has a date or none has", row.number)
    order = sorted(found, key=lambda row: row.at or datetime.min.replace(tzinfo=UTC))
    return Stream(
        tuple(row.number for row in order),
        tuple(row.text or "" for row in order) if texts else None,
        None if texts else _unit(_stacked(order), [row.number for row in order]),
        tuple(row.at for row in order if row.at is not None) if dated else None,
        tuple(row.segment for row in order) if any(row.segment for row in order) else None,
        tuple(row.label for row in order) if any(row.label for row in order) else None,
    )


def _stacked(order: list[_Row]) -> NDArray[np.float64]:
    width = len(order[0].vector or ())
    for row in order:
        if len(row.vector or ()) != width:
            raise StreamRefused(f"{len(row.vector or ())} numbers, where others have {width}", row.number, "vector")
    return np.array([row.vector for row in order], dtype=np.float64)


def _unit(vectors: NDArray[np.float64], numbers: Iterable[int]) -> NDArray[np.float32]:
    """The vectors with length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise StreamRefused("must be finite and not all zeros", list(numbers)[int(bad[0])], "vector")
    return np.asarray(vectors / lengths, dtype=np.float32)
