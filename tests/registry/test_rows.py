"""Uploads: every bad row is named, nothing is half accepted, and no message repeats the file."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import DatasetRefused
from registry.rows import MAX_TEXT, Parsed, Row, RowKind, parse, sniff_format

GOOD = "good text,a\nanother,b\n"


def _refused(data: str | bytes, format: str) -> DatasetRefused:
    with pytest.raises(DatasetRefused) as caught:
        parse(data.encode() if isinstance(data, str) else data, format)
    return caught.value


# What is uploaded (rows say "SECRET" where a message must not repeat them), and what the refusal must say.
BAD_CSV: list[tuple[str, str | bytes, list[str]]] = [
    ("empty", "", ["the file is empty"]),
    ("blank", " \n\r\n", ["the file is empty"]),
    ("header only", "text,label\n", ["the file has no rows"]),
    ("no header", "SECRET one,SECRET\nSECRET two,b\n", ["line 1: the first row must name the columns"]),
    ("half a pair", "anchor\nSECRET\n", ["line 1: the first row must name the columns"]),
    ("label alone", "label\nSECRET\n", ["line 1: the first row must name the columns"]),
    ("mixture", "text,label,anchor,positive\nSECRET,a,b,c\n", ["line 1: the first row must name the columns"]),
    ("column twice", "text,label,Text\nSECRET,a,b\n", ["line 1, text: the header names this column twice"]),
    ("empty text", "text,label\n" + GOOD + " ,a\n", ["row 3 (line 4), text: is missing or empty"]),
    ("empty label", 'text,label\n"SECRET\n2",\n' + GOOD, ["row 1 (line 2), label: is missing or empty"]),
    ("two faults", "text,label\n,\n" + GOOD, ["row 1 (line 2), text: is missing", "row 1 (line 2), label: is missing"]),
    (
        "ragged",
        "text,label\nSECRET\n" + GOOD + "SECRET, SECRET,b\n",
        [
            "row 1 (line 2): has 1 field, the header names 2",
            "row 4 (line 5): has 3 fields, the header names 2 (a comma",
        ],
    ),
    ("open quote", 'text,label\nfine,a\n"SECRET,b\nmore,c\n', ["row 2 (line 3): opens a quotation that never ends"]),
    ("bad quote", 'text,label\n"SECRET" x,b\n' + GOOD, ["row 1 (line 2): is not proper CSV"]),
    ("NUL", "text,label\nSECRET\0,a\n" + GOOD, ["row 1 (line 2), text: holds a NUL character"]),
    ("not UTF-8", b"text,label\nSECRET \xff,a\nfine,b\n\xe9,c\n", ["line 2: is not UTF-8", "line 4: is not UTF-8"]),
    ("UTF-16", "text,label\nSECRET,a\n".encode("utf-16"), ["UTF-16; save it as UTF-8"]),
    ("one label", "text,label\nSECRET,x\ntwo,x\n", ["label: all 2 rows carry one label"]),
    ("long text", f"text,label\n{'x' * (MAX_TEXT + 1)},a\n" + GOOD, ["row 1 (line 2), text: has 100,001 characters"]),
    ("huge text", f"text,label\n{'x' * 200_000},a\n" + GOOD, ["row 1 (line 2): has a field of more than 100,000"]),
    ("long label", f"text,label\nSECRET,{'x' * 201}\n" + GOOD, ["row 1 (line 2), label: has 201 characters"]),
]
BAD_JSONL: list[tuple[str, str | bytes, list[str]]] = [
    ("empty", b"\xef\xbb\xbf", ["the file has no rows"]),
    ("truncated", '{"text": "a", "label": "b"}\n{"text": "SECRET", "la', ["row 2 (line 2): is cut off"]),
    ("not JSON", "SECRET\n{}\n", ["row 1 (line 1): is not JSON", "row 2 (line 2): needs text and label"]),
    ("NaN", '{"text": NaN}\n', ["row 1 (line 1): is not JSON"]),
    ("half a pair", '{"text": "SECRET \\ud800"}\n', ["row 1 (line 1): is not JSON, or escapes half of a surrogate"]),
    ("array file", '[{"text": "SECRET"}]', ["the file is one JSON array; JSONL has one object a line"]),
    ("not an object", '{"text": "a"}\n"SECRET"\n3\nnull\n', ["a string, not an", "a number, not an", "null, not an"]),
    ("wrong type", '{"text": 7, "label": "SECRET"}\n', ["row 1 (line 1), text: is a number, not a string"]),
    ("wrong label", '{"text": "a", "label": true}\n', ["row 1 (line 1), label: is true or false, not a string"]),
    ("null label", '{"text": "a", "label": null}\n', ["row 1 (line 1), label: is missing or empty"]),
    (
        "mixed kinds",
        '\n{"text": "a", "label": "b"}\n\n{"anchor": "SECRET", "positive": "SECRET"}\n{"text": "SECRET"}\n',
        ["row 2 (line 4): is of the kind pairs, the rows before it are labelled", "row 3 (line 5): is of the kind unl"],
    ),
    ("no positive", '{"anchor": "SECRET"}\n', ["row 1 (line 1), positive: is missing or empty"]),
    ("unknown fields only", '{"SECRET": "SECRET"}\n', ["row 1 (line 1): needs text and label"]),
]


@pytest.mark.parametrize(
    ("data", "format", "expected"),
    [(data, "csv", expected) for _, data, expected in BAD_CSV]
    + [(data, "jsonl", expected) for _, data, expected in BAD_JSONL],
    ids=[f"csv {name}" for name, _, _ in BAD_CSV] + [f"jsonl {name}" for name, _, _ in BAD_JSONL],
)
def test_bad_uploads_are_refused_row_by_row(data: str | bytes, format: str, expected: list[str]) -> None:
    refusal = _refused(data, format)
    said = [str(problem) for problem in refusal.problems]
    assert len(said) == len(expected), said
    for words, problem in zip(expected, said, strict=True):
        assert words in problem
    assert "SECRET" not in str(refusal) + "".join(said)


def test_a_flood_of_bad_rows_is_counted() -> None:
    refusal = _refused("text,label\n" + ",\n" * 300 + GOOD, "csv")
    assert len(refusal.problems) == 50
    assert refusal.total == 300


def test_an_unknown_format_is_refused() -> None:
    assert "csv or jsonl" in str(_refused(b"x", "parquet"))


@pytest.mark.parametrize(
    "data",
    [
        "text,label\nhello,a\nworld,b\n",
        "\ufefftext,label\r\nhello,a\r\n\r\nworld,b",
        'Label, TEXT ,id\na,"hello",7\nb,world,8\n',
        "text;label\nhello;a\nworld;b\n",
        "text\tlabel\rhello\ta\rworld\tb\r",
    ],
)
def test_csv_as_programs_write_it(data: str) -> None:
    parsed = parse(data.encode(), "csv")
    assert (parsed.kind, parsed.rows) == (RowKind.LABELLED, [Row("hello", "a"), Row("world", "b")])
    assert any("left aside" in warning for warning in parsed.report["warnings"]) == ("id" in data)


def test_jsonl_as_programs_write_it() -> None:
    lines = [
        '{"text": "a\u2028b", "label": 1, "group": 7, "extra": []}',
        "",
        '{"text": "c", "label": 2, "group": null}',
    ]
    parsed = parse("\r\n".join(lines).encode(), "jsonl")
    assert parsed.rows == [Row("a\u2028b", "1", "7"), Row("c", "2")]
    assert "1 row with fields that Driftline does not know, left aside" in parsed.report["warnings"]
    pairs = parse(b'{"anchor": "a", "positive": "b", "negative": ""}\n', "jsonl")
    assert (pairs.kind, pairs.rows) == (RowKind.PAIRS, [Row(anchor="a", positive="b")])


_words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)
_tags = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_words, _tags), min_size=2, max_size=12).filter(lambda rows: len({t for _, t in rows}) > 1))
def test_rows_survive_both_formats(rows: list[tuple[str, str]]) -> None:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("text", "label"), *rows])
    lines = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    expected = [Row(text, label) for text, label in rows]
    assert parse(table.getvalue().encode(), "csv").rows == expected
    assert parse(lines.encode(), "jsonl").rows == expected


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
    | st.lists(st.sampled_from([b"text", b"label", b",", b"\n", b'"', b"{", b"}", b":", b"\r", b"CANARY"])).map(
        b"".join
    ),
    st.sampled_from(["csv", "jsonl"]),
    st.sampled_from([b"", b"text,label\n", b"text\n", b'{"text": "x"}\n']),
)
def test_any_bytes_are_either_rows_or_a_refusal_that_repeats_nothing(data: bytes, format: str, head: bytes) -> None:
    parsed, refusal = _outcome(head + data, format)
    if refusal is not None:
        assert 0 < len(refusal.problems) <= 50
        assert "CANARY" not in " ".join([str(refusal), *map(str, refusal.problems)])
    if parsed is not None:
        assert parsed.rows
        assert parsed.report["rows"] == len(parsed.rows)
        json.dumps(parsed.report, allow_nan=False)


def _outcome(data: bytes, format: str) -> tuple[Parsed | None, DatasetRefused | None]:
    try:
        return parse(data, format), None
    except DatasetRefused as refusal:
        return None, refusal


@pytest.mark.parametrize(
    ("hint", "format"),
    [
        ("data.CSV", "csv"),
        ("/a/b.jsonl", "jsonl"),
        ("x.ndjson", "jsonl"),
        ("x.tsv", "csv"),
        ("text/csv; charset=utf-8", "csv"),
        ("application/x-ndjson", "jsonl"),
        ("application/jsonl", "jsonl"),
        ("application/json", None),
        ("photo.png", None),
        ("", None),
    ],
)
def test_the_format_is_told_from_a_name_or_a_type(hint: str, format: str | None) -> None:
    assert sniff_format(hint) == format


def test_a_confidence_goes_with_a_label_and_one_means_none() -> None:
    csv = b"text,label,confidence\nfirst words,a,0.25\nsecond words,b,1\nthird words,a,\nfourth words,b,1.0\n"
    lines = (
        b'{"text":"first words","label":"a","confidence":0.25}\n{"text":"second words","label":"b","confidence":1}\n'
        b'{"text":"third words","label":"a","confidence":null}\n{"text":"fourth words","label":"b"}\n'
    )
    for data, format in ((csv, "csv"), (lines, "jsonl")):
        parsed = parse(data, format)
        assert [row.confidence for row in parsed.rows] == [0.25, None, None, None]
        assert [row.weak for row in parsed.rows] == [True, False, False, False]
        assert parsed.report["doubted_labels"] == 1
    idle = parse(b"text,confidence\nfirst words,0.5\nsecond words,\n", "csv")
    assert [row.confidence for row in idle.rows] == [None, None]
    assert any("1 row with a confidence but no label" in warning for warning in idle.report["warnings"])


@pytest.mark.parametrize("value", ["0", "-0.5", "1.01", "high", "nan", "inf"])
def test_a_confidence_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(DatasetRefused) as refused:
        parse(f"text,label,confidence\nfirst words,a,{value}\nsecond words,b,1\n".encode(), "csv")
    assert "above 0 and up to 1" in str(refused.value)
    for wrong in ('"0.5"', "true", "[1]"):
        with pytest.raises(DatasetRefused) as refused:
            parse(f'{{"text":"first words","label":"a","confidence":{wrong}}}\n'.encode(), "jsonl")
        assert "not a number" in str(refused.value)
