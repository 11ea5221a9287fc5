"""The Parquet that a bulk run writes: its columns, how they are packed, and what its metadata says of their origin."""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from encoder.bulk.errors import FileRefused
from encoder.bulk.model import Vectors
from encoder.bulk.options import BASE, EMBEDDING, ROW
from encoder.bulk.window import Done

SCHEMA = 1
_KEY = b"driftline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the vectors of a file come from; kept as JSON under the key `driftline` of the Parquet metadata.

    Attributes:
        model: Name and number, such as `banking@7`, or the backbone's name.
        kind: "backbone", "head" or "lora".
        version: Digest of the version; None for a bare backbone.
        backbone: Digest of the backbone's manifest.
        provider, precision: What computed the base vectors.
        dimension: Width of the vectors.
        base: Whether the column `base` holds base vectors.
        text_column, id_column: Columns of the input.
        truncate: Whether long texts were cut.
        input: sha256 of the input file.
        job: Digest of all that decides the content: input, options and model.
        created_by: Program and version.
    """

    model: str
    kind: str
    version: str | None
    backbone: str
    provider: str
    precision: str
    dimension: int
    base: bool
    text_column: str
    id_column: str | None
    truncate: bool
    input: str
    job: str
    created_by: str
    schema: int = SCHEMA

    def metadata(self) -> dict[bytes, bytes]:
        """As Parquet keeps it."""
        return {_KEY: json.dumps(asdict(self), sort_keys=True).encode()}

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes] | None) -> "Origin | None":
        """The origin a file's metadata tells of; None where a file was not written by this package.

        Raises:
            FileRefused: It is not whole, or of a newer form.
        """
        raw = (metadata or {}).get(_KEY)
        if raw is None:
            return None
        try:
            value = json.loads(raw)
            found = cls(**value)
        except (ValueError, TypeError):
            raise FileRefused(
                "the file's metadata cannot be read: it is damaged, or a newer Driftline wrote it"
            ) from None
        if found.schema != SCHEMA or value.keys() != {field.name for field in fields(cls)}:
            raise FileRefused("the file's metadata is of another form than this Driftline reads")
        return found


def program() -> str:
    """Name and version of this program, for `created_by`."""
    return f"driftline {importlib.metadata.version('driftline')}"


def vector_type(dimension: int) -> pa.DataType:
    """fixed_size_list<float32>[d] without holes: a reader may take it as one array."""
    return pa.list_(pa.field("element", pa.float32(), nullable=False), dimension)


def schema_of(kept: pa.Schema, dimension: int, *, base: bool, nullable: bool) -> pa.Schema:
    """Columns of the output: the row number, what is kept, the vectors.

    Args:
        kept: Schema of the kept columns.
        dimension: Width of the vectors.
        base: Whether base vectors are stored.
        nullable: Whether a row may have no vector.
    """
    vectors = [pa.field(EMBEDDING, vector_type(dimension), nullable=nullable)]
    if base:
        vectors.append(pa.field(BASE, vector_type(dimension), nullable=nullable))
    return pa.schema([pa.field(ROW, pa.int64(), nullable=False), *kept, *vectors])


def batch_of(done: Done, schema: pa.Schema) -> pa.RecordBatch:
    """A computed window as a record batch; rows without a vector are there only where the schema lets them be."""
    rows = np.arange(done.first, done.first + done.rows, dtype=np.int64)
    holes = schema.field(EMBEDDING).nullable
    arrays: list[pa.Array] = [pa.array(rows if holes else rows[done.where])]
    if done.kept is not None:
        kept = done.kept if holes or len(done.where) == done.rows else done.kept.take(pa.array(done.where))
        arrays += kept.columns
    for vectors in (done.embedding, done.base):
        if vectors is not None:
            arrays.append(vector_array(vectors, (done.where, done.rows) if holes else None))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def vector_array(vectors: Vectors, spread: tuple[npt.NDArray[np.int64], int] | None = None) -> pa.Array:
    """Vectors (n, d) float32 as an Arrow array, without a copy; or spread over more rows, null between.

    Args:
        vectors: Rows of vectors.
        spread: Position of each row, and how many rows there are to be.
    """
    mask = None
    if spread is not None:
        where, rows = spread
        whole = np.zeros((rows, vectors.shape[1]), dtype=np.float32)
        whole[where] = vectors
        missing = np.ones(rows, dtype=bool)
        missing[where] = False
        vectors, mask = whole, pa.array(missing)
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, type=vector_type(vectors.shape[1]), mask=mask)


def vectors_of(array: pa.Array) -> Vectors:
    """The vectors (n, d) float32 of an Arrow array of `vector_type` without nulls, without a copy.

    Raises:
        FileRefused: It is of another type.
    """
    kind = array.type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_float32(kind.value_type):
        raise FileRefused("the vectors are not float32 lists of a fixed size")
    return array.flatten().to_numpy(zero_copy_only=True).reshape(len(array), kind.list_size)  # type: ignore[no-any-return]


def open_writer(path: Path, schema: pa.Schema, origin: Origin) -> pq.ParquetWriter:
    """A Parquet writer: vectors as they are (floats do not compress), other columns packed with zstd."""
    schema = schema.with_metadata(origin.metadata())
    others = [name for name in schema.names if name not in (EMBEDDING, BASE)]
    packing = dict.fromkeys(others, "zstd") | {f"{name}.list.element": "none" for name in (EMBEDDING, BASE)}
    return pq.ParquetWriter(
        path,
        schema,
        compression={**packing},
        use_dictionary=[name for name in others if name != ROW],
        write_statistics=others,
    )
