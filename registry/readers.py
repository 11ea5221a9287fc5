"""CSV and JSONL readers: bytes to rows of one kind, or a refusal that names each bad row.

The messages name Driftline's own fields, row and line numbers and limits; never what the file says.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from registry.errors import DatasetRefused, RowProblem
from registry.row import MAX_LABEL, MAX_ROWS, MAX_TEXT, Row, RowKind

MAX_PROBLEMS = 50
"""Bad rows named in a refusal; further ones are counted."""
FIELDS = ("text", "label", "group", "anchor", "positive", "negative", "confidence")
_WANTED = (
    "text and label (perhaps confidence), or anchor and positive (perhaps negative), or text alone; group may be added "
    "to each"
)
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_CASCADE = "rows after this one were not checked"


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader found: rows of one kind, and what it left aside."""

    kind: RowKind
    rows: list[Row]
    warnings: list[str]


def read_csv(data: bytes) -> Read:
    """Rows of a CSV file (comma, semicolon or tab) whose first row names the columns. Raises DatasetRefused."""
    collected = _Collector()
    text = _decode(data)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error:
        raise _refusal("the first row, which names the columns, is not proper CSV", line=1) from None
    columns, kind = _columns(header)
    collected.expect(kind)
    unknown = len(header) - len(columns)
    if unknown:
        collected.warnings.append(f"{_count(unknown, 'column')} that Driftline does not know left aside")
    number = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # What follows a broken quotation is read out of step: naming it would only mislead.
            collected.blame(number + 1, line, None, f"{_csv_reason(error)}; {_CASCADE}")
            break
        if not cells:
            continue
        number += 1
        if len(cells) != len(header):
            has = f"has {_count(len(cells), 'field')}, the header names {len(header)}"
            collected.blame(
                number, line, None, has + (" (a comma in a text needs quotes)" if len(cells) > len(header) else "")
            )
            continue
        collected.take(number, line, {name: cells[at] for name, at in columns.items()})
    return collected.finish()


def read_jsonl(data: bytes) -> Read:
    """Rows of a file with one JSON object a line. Raises DatasetRefused."""
    collected = _Collector()
    text = _decode(data)
    if text.lstrip()[:1] == "[":
        raise _refusal("the file is one JSON array; JSONL has one object a line", line=1)
    unknown = 0
    number = 0
    for line, content in _lines(text):
        number += 1
        try:
            found = orjson.loads(content.text)
        except orjson.JSONDecodeError:
            what = "is not JSON"
            if _HALF_PAIR.search(content.text):
                what += ", or escapes half of a surrogate pair"
            if content.last_without_end:
                what = "is cut off: the last line is not complete JSON"
            collected.blame(number, line, None, what)
            continue
        if not isinstance(found, dict):
            collected.blame(number, line, None, f'is {_json_type(found)}, not an object such as {{"text": …}}')
            continue
        unknown += any(key not in FIELDS for key in found)
        values: dict[str, str] = {}
        wrong = False
        for name in FIELDS:
            value = found.get(name)
            if value is None:
                continue
            # Labels and groups are often numbers; a text that is one is a mistake.
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            if numeric and (name == "confidence" or (name in ("label", "group") and isinstance(value, int))):
                value = str(value)
            elif name == "confidence":
                collected.blame(number, line, name, f"is {_json_type(value)}, not a number")
                wrong = True
                continue
            if isinstance(value, str):
                values[name] = value
            else:
                collected.blame(number, line, name, f"is {_json_type(value)}, not a string")
                wrong = True
        if not wrong:
            collected.take(number, line, values, present=[name for name in FIELDS if name in found])
    if unknown:
        collected.warnings.append(f"{_count(unknown, 'row')} with fields that Driftline does not know, left aside")
    return collected.finish()


class _Collector:
    """Takes row after row, checks it, and ends in either a `Read` or a refusal."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.warnings: list[str] = []
        self._kind: RowKind | None = None
        self._problems: list[RowProblem] = []
        self._bad_rows: set[int | None] = set()
        self._idle = 0  # confidences beside rows without a label

    def expect(self, kind: RowKind) -> None:
        """Every row must be of this kind, as the header says."""
        self._kind = kind

    def blame(self, row: int | None, line: int | None, field: str | None, what: str) -> None:
        """Note a problem; only the first ones are kept in words."""
        self._bad_rows.add(row)
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(RowProblem(row, line, field, what))

    def take(self, number: int, line: int, values: Mapping[str, str], present: list[str] | None = None) -> None:
        """Check one row's fields and keep it."""
        if number > MAX_ROWS:
            raise _refusal(f"the file has more than {MAX_ROWS:,} rows, the most a dataset may have")
        kind = _kind_of(present if present is not None else list(values))
        if kind is None:
            self.blame(number, line, None, f"needs {_WANTED}")
            return
        if self._kind is None:
            self._kind = kind
        if kind is not self._kind:
            self.blame(number, line, None, f"is of the kind {kind}, the rows before it are {self._kind}")
            return
        fields: dict[str, Any] = {}
        good = True
        self._idle += kind is not RowKind.LABELLED and bool(values.get("confidence", "").strip())
        for name in _REQUIRED[kind] + _OPTIONAL[kind]:
            value = values.get(name, "")
            why = _fault(name, value, required=name in _REQUIRED[kind])
            if why is not None:
                self.blame(number, line, name, why)
                good = False
            elif name == "confidence":
                fields[name] = _doubt(value)
            elif value.strip():
                fields[name] = value.strip() if name in ("label", "group") else value
        if good:
            self.rows.append(Row(**fields))

    def finish(self) -> Read:
        """The rows, or the refusal. Raises DatasetRefused."""
        if self._problems:
            raise DatasetRefused(self._problems, len(self._bad_rows))
        if self._kind is None or not self.rows:
            raise _refusal("the file has no rows")
        if self._idle:
            self.warnings.append(f"{_count(self._idle, 'row')} with a confidence but no label: it is left aside")
        return Read(self._kind, self.rows, self.warnings)


_REQUIRED = {
    RowKind.LABELLED: ("text", "label"),
    RowKind.PAIRS: ("anchor", "positive"),
    RowKind.UNLABELLED: ("text",),
}
_OPTIONAL = {
    RowKind.LABELLED: ("group", "confidence"),
    RowKind.PAIRS: ("negative", "group"),
    RowKind.UNLABELLED: ("group",),
}


def _kind_of(names: list[str]) -> RowKind | None:
    """The kind a row with these fields is, None for none or for a mixture."""
    pair = any(name in names for name in ("anchor", "positive", "negative"))
    if pair:
        return None if "text" in names or "label" in names else RowKind.PAIRS
    if "label" in names:
        return RowKind.LABELLED
    return RowKind.UNLABELLED if "text" in names else None


def _fault(name: str, value: str, *, required: bool) -> str | None:
    if not value.strip():
        return "is missing or empty" if required else None
    if "\x00" in value:
        return "holds a NUL character"
    if name == "confidence":
        return None if 0 < _number(value) <= 1 else "must be a number above 0 and up to 1"
    longest = MAX_LABEL if name in ("label", "group") else MAX_TEXT
    return f"has {len(value):,} characters, more than {longest:,}" if len(value) > longest else None


def _number(value: str) -> float:
    """The number a cell says, NaN where it says none."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def _doubt(value: str) -> float | None:
    """A confidence below 1; None for one that is missing or 1, which is what a row without any has."""
    found = _number(value)
    return found if found < 1 else None


def _decode(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _refusal("the file is UTF-16; save it as UTF-8")
    if not data.strip():
        raise _refusal("the file is empty")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        bad = [number for number, line in enumerate(data.split(b"\n"), 1) if not _is_utf8(line)]
        problems = [RowProblem(None, number, None, "is not UTF-8") for number in bad[:MAX_PROBLEMS]]
        raise DatasetRefused(problems, len(bad)) from None
    return text.removeprefix("\ufeff")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _delimiter(text: str) -> str:
    """The delimiter under which the header names a column Driftline knows; a comma when none does."""
    first = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    for delimiter in (",", ";", "\t"):
        if any(_column(cell) in FIELDS for cell in first.split(delimiter)) and delimiter in first:
            return delimiter
    return ","


def _column(cell: str) -> str:
    return cell.strip().strip('"').strip().lower()


def _columns(header: list[str]) -> tuple[dict[str, int], RowKind]:
    """Where each known column is, and the kind they make together. Raises DatasetRefused."""
    names = [_column(cell) for cell in header]
    for name in FIELDS:
        if names.count(name) > 1:
            raise _refusal("the header names this column twice", line=1, field=name)
    columns = {name: names.index(name) for name in FIELDS if name in names}
    kind = _kind_of(list(columns))
    missing = [] if kind is None else [name for name in _REQUIRED[kind] if name not in columns]
    if kind is None or missing:
        found = f"; it names {', '.join(columns)}" if columns else ", and it names none of them"
        raise _refusal(f"the first row must name the columns: {_WANTED}{found}", line=1)
    return columns, kind


def _csv_reason(error: csv.Error) -> str:
    said = str(error)
    if "field larger" in said:
        return f"has a field of more than {MAX_TEXT:,} characters"
    if "unexpected end" in said:
        return "opens a quotation that never ends"
    return "is not proper CSV: text follows a closing quotation mark"


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    last_without_end: bool


def _lines(text: str) -> Iterator[tuple[int, _Line]]:
    """Numbered lines that are not blank; only a line feed ends one (JSON texts may hold U+2028)."""
    start, number = 0, 0
    while start < len(text):
        end = text.find("\n", start)
        number += 1
        content = text[start:] if end < 0 else text[start:end]
        if content.strip():
            yield number, _Line(content, end < 0)
        if end < 0:
            return
        start = end + 1


def _json_type(value: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _refusal(what: str, *, line: int | None = None, field: str | None = None) -> DatasetRefused:
    return DatasetRefused([RowProblem(None, line, field, what)])
