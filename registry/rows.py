"""From an uploaded file to rows: every bad row is named, and nothing is half accepted.

The front door for datasets' content: `parse` reads (see `registry.readers`), judges the whole and adds the quality
report.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from registry.errors import DatasetRefused, RowProblem
from registry.readers import read_csv, read_jsonl
from registry.report import quality_report
from registry.row import MAX_LABEL, MAX_ROWS, MAX_TEXT, Row, RowKind

__all__ = ["MAX_LABEL", "MAX_ROWS", "MAX_TEXT", "Parsed", "Row", "RowKind", "parse", "sniff_format"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file that was accepted: its rows in their order, all of one kind, and the quality report."""

    kind: RowKind
    rows: list[Row]
    report: dict[str, Any]


def parse(data: bytes, format: str) -> Parsed:
    """Read "csv" or "jsonl" bytes.

    Raises DatasetRefused, which names the first 50 bad rows by number, line, field and reason and counts all of them.
    """
    readers = {"csv": read_csv, "jsonl": read_jsonl}
    if format not in readers:
        raise DatasetRefused([RowProblem(None, None, None, "the format must be csv or jsonl")])
    read = readers[format](data)
    if read.kind is RowKind.LABELLED:
        labels = Counter(row.label for row in read.rows)
        if len(labels) < 2:
            what = f"all {len(read.rows)} rows carry one label; fitting needs at least two"
            raise DatasetRefused([RowProblem(None, None, "label", what)])
    report = quality_report(read.rows, read.kind)
    report["warnings"] = [*read.warnings, *report["warnings"]]
    return Parsed(read.kind, read.rows, report)


def sniff_format(hint: str) -> str | None:
    """ "csv" or "jsonl" from a file name or a content type, None when neither fits."""
    hint = hint.partition(";")[0].strip().lower()
    if "/" in hint and not PurePath(hint).suffix:
        kind = hint.rpartition("/")[2]
        if kind in ("csv", "x-csv", "comma-separated-values", "tab-separated-values"):
            return "csv"
        if kind in ("jsonl", "x-jsonl", "jsonlines", "x-jsonlines", "ndjson", "x-ndjson", "json-lines"):
            return "jsonl"
        return None
    suffix = PurePath(hint).suffix
    if suffix in (".csv", ".tsv"):
        return "csv"
    return "jsonl" if suffix in (".jsonl", ".ndjson") else None
