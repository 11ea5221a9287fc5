"""Files embedded from end to end: what the output holds, what becomes of bad rows, what the metadata says."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoder.bulk.errors import FileRefused, RowsRefused
from encoder.bulk.layout import Origin, vectors_of
from encoder.bulk.local import plan
from encoder.bulk.model import Model
from encoder.bulk.options import OnError, Options
from encoder.bulk.run import embed_file
from encoder.bulk.window import WINDOW_ROWS
from encoder.encoder import Encoder
from encoder.lora import Lora

Opens = Callable[..., Model]
Writes = Callable[..., Path]
Makes = Callable[..., list[str]]


def column(table: pa.Table, name: str) -> np.ndarray:
    return vectors_of(table[name].combine_chunks())


def test_the_real_backbone_gives_the_vectors_it_always_gives(
    tmp_path: Path, encoder: Encoder, write_jsonl: Writes, sentences: Makes
) -> None:
    texts = [*sentences(150), "a", "word " * 200]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    seen: list[tuple[str, int, int]] = []
    summary = embed_file(
        source,
        tmp_path / "out.parquet",
        lambda pinned: Model("all-MiniLM-L6-v2", encoder),
        Options(),
        watch=lambda *step: seen.append(step),
    )
    wanted = encoder.encode(texts)
    table = pq.read_table(tmp_path / "out.parquet")
    assert np.abs(column(table, "embedding") - wanted.vectors).max() < 1e-5
    assert table["row"].to_pylist() == list(range(1, len(texts) + 1))
    assert table.column_names == ["row", "embedding"]
    assert (summary.rows, summary.embedded, summary.tokens) == (len(texts), len(texts), sum(wanted.counts))
    assert seen[-1] == ("embedding", len(texts), len(texts))
    assert {what for what, _, _ in seen} == {"checking", "embedding"}
    assert not (tmp_path / "out.parquet.parts").exists()


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_kept_columns_ids_and_repeated_rows_stay_in_order(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes, sentences: Makes, ending: str
) -> None:
    count = 2 * WINDOW_ROWS + 77
    texts = sentences(count // 2) * 2 + ["odd one"] * (count % 2)
    ids = [i % 100 for i in range(count)]  # duplicate ids and duplicate texts: every row stays
    if ending == "jsonl":
        source = write_jsonl(tmp_path / "in.jsonl", texts, id=ids, price=[i / 4 for i in ids], tags=[[i] for i in ids])
    else:
        source = tmp_path / "in.parquet"
        columns = {"text": texts, "id": ids, "price": [i / 4 for i in ids], "tags": [[i] for i in ids]}
        pq.write_table(pa.table(columns), source, row_group_size=5000)
    model = open_tiny(2)
    out = tmp_path / "out.parquet"
    summary = embed_file(source, out, lambda pinned: model, Options(id_column="id", keep=("tags", "text")))
    table = pq.read_table(out)
    assert table.column_names == ["row", "id", "tags", "text", "embedding", "base"]
    assert table["row"].to_pylist() == list(range(1, count + 1))
    assert table["id"].to_pylist() == ids
    assert table["text"].to_pylist() == texts
    assert table["tags"].to_pylist() == ([[i] for i in ids] if ending == "parquet" else [f"[{i}]" for i in ids])
    base = model.encoder.encode(texts).vectors
    assert np.abs(column(table, "base") - base).max() < 1e-5
    assert model.head is not None
    assert np.abs(column(table, "embedding") - model.head.apply(base)).max() < 1e-5
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float not null>[16]"
    assert summary.embedded == count


def test_the_metadata_tell_where_the_vectors_come_from(tmp_path: Path, open_tiny: Opens, write_jsonl: Writes) -> None:
    model = open_tiny(1)
    source = write_jsonl(tmp_path / "in.jsonl", ["a text"], body=["another"])
    out = tmp_path / "out.parquet"
    embed_file(source, out, lambda pinned: model, Options(text_column="body", id_column="text", truncate=True))
    raw = pq.read_metadata(out).metadata[b"driftline"]
    origin = Origin.of({b"driftline": raw})
    assert origin is not None
    assert (origin.model, origin.kind, origin.version) == ("desk@1", "head", model.version)
    assert (origin.backbone, origin.provider, origin.precision) == (model.encoder.digest, "cpu", "fp32")
    assert (origin.dimension, origin.base, origin.truncate) == (16, True, True)
    assert (origin.text_column, origin.id_column) == ("body", "text")
    assert origin.created_by.startswith("driftline ")
    assert b"a text" not in raw
    broken = {**json.loads(raw), "schema": 99}
    with pytest.raises(FileRefused, match="another form"):
        Origin.of({b"driftline": json.dumps(broken).encode()})
    with pytest.raises(FileRefused, match="cannot be read"):
        Origin.of({b"driftline": b'{"schema": 1}'})


def test_a_bare_backbone_stores_no_second_copy_unless_asked(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["one", "two"])
    for base, names in ((None, ["row", "embedding"]), (True, ["row", "embedding", "base"])):
        embed_file(source, tmp_path / "out.parquet", lambda p: open_tiny(), Options(base=base), overwrite=True)
        assert pq.read_schema(tmp_path / "out.parquet").names == names
    embed_file(source, tmp_path / "out.parquet", lambda p: open_tiny(1), Options(base=False), overwrite=True)
    assert pq.read_schema(tmp_path / "out.parquet").names == ["row", "embedding"]


def test_a_lora_version_acts_inside_the_backbone_and_has_no_base_vectors(
    tmp_path: Path, encoder: Encoder, make_lora: Callable[..., Lora], write_jsonl: Writes, sentences: Makes
) -> None:
    texts = sentences(70)
    source, out = write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out.parquet"
    model = Model("inner@1", encoder, lora=make_lora(1))
    embed_file(source, out, lambda pinned: model, Options())
    ids = encoder.tokenizer.encode(texts).ids
    wanted = encoder.forward_adapted(ids, [model.lora] * len(ids))
    table = pq.read_table(out)
    assert table.column_names == ["row", "embedding"]
    assert np.abs(column(table, "embedding") - wanted).max() < 1e-5
    assert np.abs(column(table, "embedding") - encoder.run(ids)).max() > 1e-2, "the adapter moves the vectors"
    origin = Origin.of(pq.read_metadata(out).metadata)
    assert origin is not None
    assert (origin.kind, origin.version, origin.base) == ("lora", make_lora(1).digest, False)
    with pytest.raises(FileRefused, match="no base vectors"):
        embed_file(source, tmp_path / "two.parquet", lambda pinned: model, Options(base=True))


LONG = "long " * 400
BAD = ["good", "", LONG, "good too", None, "  ", "last"]


def test_bad_rows_are_all_named_before_anything_is_computed(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes, sentences: Makes
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*sentences(20_000), *BAD])
    computed = 0

    def count(what: str, done: int, total: int) -> None:
        nonlocal computed
        computed += what == "embedding"

    with pytest.raises(RowsRefused) as refused:
        embed_file(source, tmp_path / "out.parquet", lambda p: open_tiny(), Options(), watch=count)
    assert [(row.row - 20_000, row.why) for row in refused.value.bad] == [
        (2, "has an empty text"),
        (3, "has a text of more than 256 tokens (--truncate cuts it)"),
        (5, "has no text"),
        (6, "has an empty text"),
    ]
    assert "row 20002 (line 20002) has an empty text" in str(refused.value)
    assert computed == 0
    assert list(tmp_path.iterdir()) == [source]


def test_bad_rows_are_skipped_left_null_or_cut(tmp_path: Path, open_tiny: Opens, write_jsonl: Writes) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", BAD, n=range(len(BAD)))
    out = tmp_path / "out.parquet"
    model = open_tiny(1)
    skip = embed_file(source, out, lambda p: model, Options(keep=("n",), on_error=OnError.SKIP), overwrite=True)
    assert [row.row for row in skip.bad] == [2, 3, 5, 6]
    assert (skip.rows, skip.embedded) == (7, 3)
    short = pq.read_table(out)
    assert short["row"].to_pylist() == [1, 4, 7]
    assert short["n"].to_pylist() == [0, 3, 6]
    null = embed_file(source, out, lambda p: model, Options(keep=("n",), on_error=OnError.NULL), overwrite=True)
    assert (null.rows, null.embedded, [row.row for row in null.bad]) == (7, 3, [2, 3, 5, 6])
    whole = pq.read_table(out)
    assert whole["n"].to_pylist() == list(range(7))
    for name in ("embedding", "base"):
        assert [value is None for value in whole[name].to_pylist()] == [False, True, True, False, True, True, False]
        assert np.array_equal(vectors_of(whole[name].combine_chunks().drop_null()), column(short, name))
    cut = Options(on_error=OnError.SKIP, truncate=True)
    assert [row.row for row in embed_file(source, out, lambda p: model, cut, overwrite=True).bad] == [2, 5, 6]
    wanted = model.finish(model.encoder.encode([LONG], truncate=True).vectors)
    assert np.abs(column(pq.read_table(out), "embedding")[1] - wanted[0]).max() < 1e-5


def test_a_file_of_nothing_but_bad_rows(tmp_path: Path, open_tiny: Opens, write_jsonl: Writes) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["", ""])
    for policy, rows in ((OnError.SKIP, 0), (OnError.NULL, 2)):
        done = embed_file(
            source, tmp_path / "o.parquet", lambda p: open_tiny(), Options(on_error=policy), overwrite=True
        )
        assert (done.rows, done.embedded, pq.read_metadata(tmp_path / "o.parquet").num_rows) == (2, 0, rows)


def test_an_output_that_exists_is_not_overwritten_unasked_and_not_made_twice(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["one"])
    out = tmp_path / "out.parquet"
    out.write_bytes(b"something precious")
    with pytest.raises(FileRefused, match="--overwrite"):
        embed_file(source, out, lambda p: open_tiny(1), Options())
    assert out.read_bytes() == b"something precious"
    embed_file(source, out, lambda p: open_tiny(1), Options(), overwrite=True)
    stamp = out.stat().st_mtime_ns
    again = embed_file(source, out, lambda p: open_tiny(1), Options())
    assert (again.already, again.rows, out.stat().st_mtime_ns) == (True, 1, stamp)
    with pytest.raises(FileRefused, match="--overwrite"):
        embed_file(source, out, lambda p: open_tiny(2), Options())
    with pytest.raises(FileRefused, match="cannot be the input"):
        embed_file(source, source, lambda p: open_tiny(1), Options())
    with pytest.raises(FileRefused, match="a folder that exists"):
        embed_file(source, tmp_path / "no" / "out.parquet", lambda p: open_tiny(1), Options())


def test_restart_replaces_only_an_output_of_the_same_job(tmp_path: Path, open_tiny: Opens, write_jsonl: Writes) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["one"])
    out = tmp_path / "out.parquet"
    out.write_bytes(b"something precious")
    with pytest.raises(FileRefused, match="--overwrite"):
        embed_file(source, out, lambda p: open_tiny(1), Options(), restart=True)
    assert out.read_bytes() == b"something precious"
    assert not embed_file(source, out, lambda p: open_tiny(1), Options(), restart=True, overwrite=True).already
    with pytest.raises(FileRefused, match="--overwrite"):
        embed_file(source, out, lambda p: open_tiny(2), Options(), restart=True)
    assert not embed_file(source, out, lambda p: open_tiny(1), Options(), restart=True).already


def test_an_output_counts_as_done_only_as_it_was_asked_for(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["one"])
    out = tmp_path / "out.parquet"
    embed_file(source, out, lambda p: open_tiny(1), Options())
    for asked in (("auto", "auto"), ("cpu", "auto"), ("cpu", "fp32")):
        assert embed_file(source, out, lambda p: open_tiny(1), Options(), asked=asked).already
    for asked in (("openvino", "auto"), ("auto", "int8")):
        with pytest.raises(FileRefused, match=r"made on cpu in fp32; --overwrite"):
            embed_file(source, out, lambda p: open_tiny(1), Options(), asked=asked)
    again = embed_file(source, out, lambda p: open_tiny(1), Options(), overwrite=True)
    assert (again.already, again.resumed) == (False, 0)


def test_a_full_disk_is_told_and_leaves_the_run_to_be_gone_on_with(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes, sentences: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", sentences(3 * WINDOW_ROWS))
    out = tmp_path / "out.parquet"

    def full(self: object, done: object, schema: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("encoder.bulk.parts.batch_of", lambda done, schema: full(None, done, schema))
        with pytest.raises(FileRefused, match="No space left"):
            embed_file(source, out, lambda p: open_tiny(), Options())
    assert not out.exists()
    assert embed_file(source, out, lambda p: open_tiny(), Options()).embedded == 3 * WINDOW_ROWS


def test_batches_hold_so_many_rows_and_tokens() -> None:
    lengths = [5, 100, 7, 300, 9, 11]
    assert plan(lengths, 2) == [[3, 1], [5, 4], [2, 0]]
    assert plan(lengths, 4, 200) == [[3], [1, 5], [4, 2, 0]]
    assert plan([], 4) == []
