"""What the readers make of good files and of hostile ones."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoder.bulk.block import MAX_RECORD, Block
from encoder.bulk.errors import FileRefused
from encoder.bulk.options import Format, Options
from encoder.bulk.survey import open_source
from encoder.bulk.window import windows


def read(path: Path, options: Options | None = None, start: int = 1) -> tuple[list[Block], pa.Schema]:
    """Survey, then read from `start` on; both must agree on the texts and the bad rows."""
    source = open_source(path, options or Options())
    surveyed = list(source.survey())
    schema = source.schema()
    blocks = list(open_source(path, options or Options()).blocks(schema, start))
    if start == 1:
        assert [b.texts for b in blocks] == [b.texts for b in surveyed]
        assert [b.bad for b in blocks] == [b.bad for b in surveyed]
    return blocks, schema


def texts(blocks: list[Block]) -> list[str | None]:
    return [text for block in blocks for text in block.texts]


def bad(blocks: list[Block]) -> list[tuple[int, int | None, str]]:
    return [(row.row, row.line, row.why) for block in blocks for row in block.bad]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "csv.zst", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str, sentences: Callable[..., list[str]]) -> None:
    wanted = [*sentences(2500), 'quoted "so", and\nbroken', "plain"]
    path = tmp_path / f"rows.{ending}"
    if "jsonl" in ending:
        data = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(wanted)).encode()
    else:
        tab = "\t" if ending == "tsv" else ","
        quoted = ('"' + text.replace('"', '""') + '"' for text in wanted)
        data = (f"text{tab}n\r\n" + "".join(f"{text}{tab}{i}\r\n" for i, text in enumerate(quoted))).encode()
    if ending.endswith(".gz"):
        data = gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
    elif ending.endswith(".zst"):
        data = bytes(pa.compress(data, "zstd", asbytes=True))
    if ending == "parquet":
        pq.write_table(pa.table({"text": wanted, "n": range(len(wanted))}), path, row_group_size=700)
    else:
        path.write_bytes(data)
    blocks, schema = read(path, Options(keep=("n",)))
    assert texts(blocks) == wanted
    assert schema.names == ["n"]
    numbers = [value for block in blocks for value in block.kept.column(0).to_pylist()]
    assert list(map(int, numbers)) == list(range(len(wanted)))
    assert blocks[0].first == 1
    for start in (2, 1024, 1025, 2502):
        later, _ = read(path, Options(keep=("n",)), start)
        assert texts(later) == wanted[start - 1 :]
        assert later[0].first == start
        assert int(later[0].kept.column(0)[0].as_py()) == start - 1


def test_windows_grow_and_follow_from_where_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 26_000)
    made = [(w.first, len(w.texts)) for w in windows(read(path)[0])]
    assert made == [(1, 1024), (1025, 2048), (3073, 4096), (7169, 8192), (15361, 8192), (23553, 2448)]
    for index in range(1, len(made)):
        later = windows(read(path, start=made[index][0])[0])
        assert [(w.first, len(w.texts)) for w in later] == made[index:]


def test_windows_hold_bounded_bytes(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 200_000}) + "\n" for _ in range(60)))
    blocks, _ = read(path)
    made = list(windows(blocks, size=3 << 20))
    assert [row for window in made for row in (window.first, window.first + len(window.texts))][1:-1:2] == [
        window.first for window in made[1:]
    ]
    assert max(sum(len(text or "") for text in window.texts) for window in made) <= 5 << 20


def test_bad_lines_of_jsonl_are_named_and_spoil_no_other(tmp_path: Path) -> None:
    path = tmp_path / "hostile.jsonl"
    lines = [
        b'{"text": "good"}',
        b"",
        b'{"text": "caf\xe9"}',
        b'{"text": "half a pair \\ud800"}',
        b"[1, 2]",
        b'{"text": 7}',
        b'{"text": "  "}',
        b'{"other": 1}',
        b'{"text": "' + b"x" * (MAX_RECORD + 10) + b'"}',
        b'{"text": "nul \\u0000 inside"}',
        b"{" * 100_000,
        b'{"text": "cut off',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    blocks, _ = read(path)
    assert [text for text in texts(blocks) if text] == ["good", "nul \x00 inside"]
    assert bad(blocks) == [
        (2, 3, "is not UTF-8"),
        (3, 4, "is not JSON"),
        (4, 5, "is not a JSON object"),
        (5, 6, "has a text that is not a string"),
        (6, 7, "has an empty text"),
        (7, 8, "has no text"),
        (8, 9, "is longer than 16 MiB"),
        (10, 11, "is not JSON"),
        (11, 12, "is cut off: the last line is not complete JSON"),
    ]


def test_a_column_of_numbers_takes_whole_ones_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    values = [0.5, 2**53 + 1, -(2**63), None, 3]
    path.write_text("".join(json.dumps({"text": "fine", "n": value}) + "\n" for value in values))
    blocks, schema = read(path, Options(keep=("n",)))
    assert schema.field("n").type == pa.float64()
    assert blocks[0].kept.column(0).to_pylist() == [0.5, 2.0**53, -(2.0**63), None, 3.0]


def test_bad_rows_of_csv_are_named_and_spoil_no_other(tmp_path: Path) -> None:
    path = tmp_path / "hostile.csv"
    path.write_bytes(
        b'text;id\ngood;1\n\ncaf\xe9;2\nok;caf\xe9\n;4\na;b;c\nlonely\n"two\nlines";7\nnul \x00 inside;8\n"last";9'
    )
    blocks, _ = read(path, Options(keep=("id",)))
    assert [text for text in texts(blocks) if text] == ["good", "two\nlines", "nul \x00 inside", "last"]
    assert bad(blocks) == [
        (2, 4, "is not UTF-8"),
        (3, 5, "is not UTF-8"),
        (4, 6, "has an empty text"),
        (5, 7, "has 3 fields, the header names 2 (a delimiter in a text needs quotes)"),
        (6, 8, "has 1 fields, the header names 2"),
    ]
    assert [v for block in blocks for v in block.kept.column(0).to_pylist()] == [
        "1", None, None, "4", None, None, "7", "8", "9",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.csv", b'text,id\n"never closed,1\nb,2\n', "line 2: a quotation opens that never ends"),
        ("a.csv", b'text,id\n"closed" too early,1\n', "line 2: the row is not proper CSV"),
        ("a.csv", b"text,text\na,b\n", "names a column twice"),
        ("a.csv", b"SECRET,other\na,b\n", "none is text"),
        ("a.csv", b'text\n"' + b"x\n" * (MAX_RECORD // 2 + 10) + b'"\n', "the row is longer than 16 MiB"),
        ("a.csv", "text\nä\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"", "the file is empty"),
        ("a.jsonl", b'[{"text": "a"}]', "one JSON array"),
        ("a.jsonl", b'{"body": "SECRET"}\n', "no row has a field text"),
        ("a.jsonl", b'{"text": "a", "row": 1}\n', "a column named row cannot be kept"),
        ("a.jsonl.gz", b'{"text": "a"}\n', "not whole gzip"),
        ("a.jsonl.zst", b'{"text": "a"}\n', "not whole zstd"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 100)[:-20], "not whole gzip"),
        ("a.parquet", b"PAR1 no, not really PAR1", "cannot be read as Parquet"),
        ("a.parquet.gz", b"", "compresses its own pages"),
        ("a.txt", b"", "--format"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_without_its_text(
    tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FileRefused, match=why) as refused:
        read(tmp_path / name, Options(keep=None))
    assert "SECRET" not in str(refused.value)


def test_many_different_fields_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_text("".join(json.dumps({"text": "a", f"field{i}": i}) + "\n" for i in range(2000)))
    with pytest.raises(FileRefused, match="more than 1000 different fields"):
        read(path, Options(keep=None))
    assert texts(read(path, Options())[0]) == ["a"] * 2000


def test_the_types_of_kept_fields_follow_from_all_their_values(tmp_path: Path) -> None:
    rows = [
        {"i": 1, "f": 1, "b": True, "s": "x", "mixed": "x", "nested": [1], "big": 2**63, "none": None},
        {"i": 2, "f": 0.5, "b": None, "mixed": 7, "nested": {"a": None}, "big": 1},
    ]
    path = tmp_path / "kinds.jsonl"
    path.write_text("".join(json.dumps({"text": "a", **row}) + "\n" for row in rows))
    blocks, schema = read(path, Options(keep=("i", "f", "b", "s", "mixed", "nested", "big", "none")))
    assert [str(field.type) for field in schema] == [
        "int64", "double", "bool", "string", "string", "string", "string", "string",
    ]  # fmt: skip
    assert blocks[0].kept.to_pylist() == [
        {"i": 1, "f": 1.0, "b": True, "s": "x", "mixed": "x", "nested": "[1]", "big": str(2**63), "none": None},
        {"i": 2, "f": 0.5, "b": None, "s": None, "mixed": "7", "nested": '{"a":null}', "big": "1", "none": None},
    ]


def test_parquet_strings_of_every_kind_and_broken_ones(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffb")]
    )
    kinds = {
        "large": pa.array(["a", None, "b"], pa.large_string()),
        "dictionary": pa.array(["a", None, "b"]).dictionary_encode(),
        "broken": broken,
    }
    for name, column in kinds.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": column, "same": pa.array(["x", "y", "x"]).dictionary_encode()}), path)
        blocks, schema = read(path, Options(keep=("same",)))
        assert texts(blocks) == ["a", None, "b"], name
        assert bad(blocks) == [(2, None, "is not UTF-8" if name == "broken" else "has no text")]
        assert str(schema.field("same").type) == "string"
        assert blocks[0].kept.column(0).to_pylist() == ["x", "y", "x"]
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(FileRefused, match="does not hold strings"):
        read(tmp_path / "numbers.parquet")


def test_a_format_may_be_told(tmp_path: Path) -> None:
    (tmp_path / "rows.dat").write_text('{"text": "a"}\n')
    assert texts(read(tmp_path / "rows.dat", Options(format=Format.JSONL))[0]) == ["a"]
