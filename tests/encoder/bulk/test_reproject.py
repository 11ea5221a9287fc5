"""Stored base vectors under another head version: what re-encoding would give, and refused where it would not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoder.adapters import Head
from encoder.bulk.errors import FileRefused
from encoder.bulk.layout import Origin, open_writer, vectors_of
from encoder.bulk.model import Model
from encoder.bulk.options import OnError, Options
from encoder.bulk.reproject import reproject_file
from encoder.bulk.run import embed_file
from encoder.bulk.window import WINDOW_ROWS

Opens = Callable[..., Model]
Writes = Callable[..., Path]
Makes = Callable[..., list[str]]


def head_of(model: Model) -> Head:
    assert model.head is not None
    return model.head


def origin_of(path: Path) -> Origin:
    origin = Origin.of(pq.read_metadata(path).metadata)
    assert origin is not None
    return origin


@pytest.mark.parametrize("before", [1, None])
def test_it_gives_what_encoding_again_would_give(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes, sentences: Makes, before: int | None
) -> None:
    texts = sentences(2 * WINDOW_ROWS + 5)
    source = write_jsonl(tmp_path / "in.jsonl", texts, id=[f"id {i}" for i in range(len(texts))])
    options = Options(id_column="id")
    old, new, again = (tmp_path / f"{name}.parquet" for name in ("old", "new", "again"))
    embed_file(source, old, lambda p: open_tiny(before), options)
    embed_file(source, again, lambda p: open_tiny(2), options)
    seen: list[tuple[str, int, int]] = []
    head = head_of(open_tiny(2))
    done = reproject_file(old, new, head, "desk@2", watch=lambda *step: seen.append(step))
    assert done.rows == len(texts)
    assert seen[-1] == ("applying", len(texts), len(texts))
    moved, wanted = pq.read_table(new), pq.read_table(again)
    assert moved.schema.equals(wanted.schema)
    for name in ("row", "id"):
        assert moved[name].equals(wanted[name])
    for name in ("embedding", "base"):
        found, right = (vectors_of(table[name].combine_chunks()) for table in (moved, wanted))
        assert np.abs(found - right).max() < 1e-6
    origin = origin_of(new)
    assert (origin.model, origin.kind, origin.version, origin.base) == ("desk@2", "head", head.digest, True)
    assert origin.precision == "fp32"
    assert origin.backbone == origin_of(old).backbone


def test_the_new_file_can_be_moved_again_or_spare_the_base_vectors(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["one", "two", "three"])
    one, two = tmp_path / "1.parquet", tmp_path / "2.parquet"
    embed_file(source, one, lambda p: open_tiny(1), Options(keep=("text",)))
    reproject_file(one, two, head_of(open_tiny(2)), "desk@2")
    reproject_file(two, two, head_of(open_tiny(1)), "desk@1", overwrite=True)
    assert pq.read_table(two).equals(pq.read_table(one))
    reproject_file(one, two, head_of(open_tiny(2)), "desk@2", base=False, overwrite=True)
    assert pq.read_schema(two).names == ["row", "text", "embedding"]
    with pytest.raises(FileRefused, match="no base vectors, only those of desk@2"):
        reproject_file(two, tmp_path / "3.parquet", head_of(open_tiny(1)), "desk@1")


def test_rows_without_a_vector_stay_without_one(tmp_path: Path, open_tiny: Opens, write_jsonl: Writes) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["", "one", "", "two"])
    old, new, again = (tmp_path / f"{name}.parquet" for name in ("old", "new", "again"))
    options = Options(on_error=OnError.NULL)
    embed_file(source, old, lambda p: open_tiny(1), options)
    embed_file(source, again, lambda p: open_tiny(2), options)
    reproject_file(old, new, head_of(open_tiny(2)), "desk@2")
    assert pq.read_table(new).equals(pq.read_table(again))
    assert pq.read_table(new)["embedding"].null_count == 2


def test_what_it_cannot_vouch_for_is_refused(tmp_path: Path, open_tiny: Opens, write_jsonl: Writes) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["one", "two"])
    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    embed_file(source, old, lambda p: open_tiny(1), Options())
    head = head_of(open_tiny(2))
    table, origin = pq.read_table(old), origin_of(old)
    other = tmp_path / "other.parquet"

    def written(table: pa.Table, **changed: object) -> Path:
        values = {field: getattr(origin, field) for field in Origin.__slots__} | changed
        with open_writer(other, table.schema, Origin(**values)) as writer:
            writer.write_table(table)
        return other

    pq.write_table(table.replace_schema_metadata(None), other)
    with pytest.raises(FileRefused, match="not written by `driftline embed`"):
        reproject_file(other, new, head, "desk@2")
    with pytest.raises(FileRefused, match="encode the texts again"):
        reproject_file(written(table, backbone="0" * 64), new, head, "desk@2")
    with pytest.raises(FileRefused, match="no base vectors"):
        reproject_file(written(table.drop_columns(["base"]), base=False), new, head, "desk@2")
    for changed in (table["base"].combine_chunks().values.to_numpy() * 1.5, np.full(32, np.nan, np.float32)):
        values = pa.FixedSizeListArray.from_arrays(pa.array(changed), type=table.schema.field("base").type)
        damaged = table.set_column(2, table.schema.field("base"), values)
        with pytest.raises(FileRefused, match="not of unit length"):
            reproject_file(written(damaged), new, head, "desk@2")
    short = table.set_column(2, "base", pa.array([[1.0], [1.0]], pa.list_(pa.float32(), 1)))
    with pytest.raises(FileRefused, match="16 components"):
        reproject_file(written(short), new, head, "desk@2")
    other.write_bytes(old.read_bytes()[:-9])
    with pytest.raises(FileRefused, match="cannot be read as Parquet"):
        reproject_file(other, new, head, "desk@2")
    assert not new.exists()
    new.write_bytes(b"precious")
    with pytest.raises(FileRefused, match="--overwrite"):
        reproject_file(old, new, head, "desk@2")
    assert new.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "new.parquet",
        "old.parquet",
        "other.parquet",
    ]
