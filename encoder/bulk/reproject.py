"""Moving a file to another head version: the head is applied to the stored base vectors, and no text is encoded.

Reading, computing and writing overlap: one thread unpacks, one a core applies the head, and the caller's thread packs.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoder.adapters import Head
from encoder.bulk.errors import FileRefused
from encoder.bulk.layout import Origin, open_writer, program, schema_of, vector_array, vector_type, vectors_of
from encoder.bulk.model import apply_head
from encoder.bulk.options import BASE, EMBEDDING, ROW
from encoder.bulk.parts import sync, writing
from encoder.bulk.survey import Watch
from encoder.runtime import cores

_ROWS = 8192
_UNIT = 1e-2


@dataclass(frozen=True, slots=True)
class Reprojected:
    """What was done.

    Attributes:
        out: The file.
        rows: Its rows.
        seconds: From the opened input to the published output.
        before, origin: What the metadata of the input and of the output say.
    """

    out: Path
    rows: int
    seconds: float
    before: Origin
    origin: Origin


def reproject_file(
    source: Path,
    out: Path,
    head: Head,
    model: str,
    *,
    base: bool = True,
    overwrite: bool = False,
    watch: Watch = lambda what, done, total: None,
) -> Reprojected:
    """Write a file again with the vectors of another head version.

    Args:
        source: A file that `embed_file` wrote, with base vectors, or with a bare backbone's vectors.
        out: The file to make; it appears in one rename.
        head: The version.
        model: Its name, such as `banking@8`.
        base: Keep the base vectors in the new file.
        overwrite: Replace an `out` that exists; it may be `source` itself.
        watch: Told of the progress.

    Raises:
        FileRefused: The file has no base vectors, or not those of the version's backbone, or they are damaged; or the
            output cannot be written.
    """
    if out.exists() and not overwrite:
        raise FileRefused("the output exists; --overwrite replaces it")
    if out.is_dir() or not out.parent.is_dir():
        raise FileRefused("the output must be a file in a folder that exists")
    began = time.perf_counter()
    aside = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        with pq.ParquetFile(source, memory_map=True) as file:
            before, column = _checked(file, head)
            others = [field for field in file.schema_arrow if field.name not in (ROW, EMBEDDING, BASE)]
            holes = file.schema_arrow.field(column).nullable
            schema = schema_of(pa.schema(others), before.dimension, base=base, nullable=holes)
            origin = replace(
                before,
                model=model,
                kind="head",
                version=head.digest,
                base=base,
                job=f"{before.job}>{head.digest}",
                created_by=program(),
            )
            rows = file.metadata.num_rows
            with writing(), open_writer(aside, schema, origin) as writer, ThreadPoolExecutor(1, "sync") as syncing:
                done = 0
                synced = syncing.submit(sync, aside)
                for batch in _batches(file, head, column, schema):
                    writer.write_batch(batch, row_group_size=len(batch))
                    done += len(batch)
                    watch("applying", done, rows)
                    if synced.done():  # the disk works all along, and not only when the rest is done
                        synced.result()
                        synced = syncing.submit(sync, aside)
        with writing():
            sync(aside)
            aside.replace(out)
            sync(out.parent)
    except (pa.ArrowException, OSError) as error:
        raise FileRefused(f"the file cannot be read as Parquet: {type(error).__name__}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return Reprojected(out, rows, time.perf_counter() - began, before, origin)


def _checked(file: pq.ParquetFile, head: Head) -> tuple[Origin, str]:
    """The origin of a file and the column with its base vectors. Raises FileRefused."""
    origin = Origin.of(file.schema_arrow.metadata)
    if origin is None:
        raise FileRefused("the file was not written by `driftline embed`: nothing tells which model made its vectors")
    if origin.backbone != head.manifest.backbone:
        raise FileRefused(
            f"the file's vectors come from the backbone {origin.backbone[:12]}, the version acts on those of "
            f"{head.manifest.backbone[:12]}: encode the texts again with `driftline embed`"
        )
    column = BASE if origin.base else EMBEDDING
    if not origin.base and origin.kind != "backbone":
        raise FileRefused(f"the file has no base vectors, only those of {origin.model}: embed it again with --base")
    schema = file.schema_arrow
    if column not in schema.names or schema.field(column).type != vector_type(head.manifest.dimension):
        raise FileRefused(f"the column {column} does not hold float32 vectors of {head.manifest.dimension} components")
    return origin, column


def _batches(file: pq.ParquetFile, head: Head, column: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The new record batches in the order of the old ones."""
    names = [name for name in schema.names if name not in (EMBEDDING, BASE)]
    batches = file.iter_batches(_ROWS, columns=[*names, column])
    workers = cores()
    with ThreadPoolExecutor(1, "reproject-read") as reading, ThreadPoolExecutor(workers, "reproject") as applying:
        under_way: deque[Future[pa.RecordBatch]] = deque()
        try:
            coming = reading.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = reading.submit(next, batches, None)
                under_way.append(applying.submit(_applied, batch, head, column, schema))
                while len(under_way) > workers + 1:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            applying.shutdown(wait=False, cancel_futures=True)


def _applied(batch: pa.RecordBatch, head: Head, column: str, schema: pa.Schema) -> pa.RecordBatch:
    stored = batch.column(column)
    spread = None
    if stored.null_count:
        where = np.flatnonzero(stored.is_valid().to_numpy(zero_copy_only=False))
        spread = (where.astype(np.int64), len(stored))
    vectors = vectors_of(stored.drop_null() if spread else stored)
    # Not-a-number fails this too.
    if len(vectors) and not np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1.0).max() <= 2 * _UNIT:
        raise FileRefused(f"the column {column} holds vectors that are not of unit length: it was changed or damaged")
    made = {EMBEDDING: vector_array(apply_head(head, vectors), spread), BASE: stored}
    arrays = [made[name] if name in made else batch.column(name) for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
