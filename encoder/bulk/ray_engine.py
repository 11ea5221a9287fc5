"""The same run over Ray Data: one task reads, actors that each hold the model compute, this process writes.

Reading and writing are hundreds of times faster than computing, so both stay in one place and in order: rows keep their
numbers, bad rows are named, and parts, resuming and the one output file are those of the local engine. The input must
lie where every node of the cluster sees it, and so must what `open_model` reads.
"""

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from encoder.bulk.errors import BadRow, ExtraMissing, FileRefused
from encoder.bulk.layout import vector_array, vectors_of
from encoder.bulk.local import Tick, compute
from encoder.bulk.model import Model, OpenModel
from encoder.bulk.options import BASE, EMBEDDING
from encoder.bulk.survey import Task
from encoder.bulk.window import WINDOW_BYTES, Done, Window
from encoder.errors import EncoderError

if TYPE_CHECKING:
    from ray.data import DataContext, Dataset, Datasource

_ROW, _LINE, _TEXT, _WHY, _TOKENS = "row", "line", "text", "why", "tokens"
_KEPT = "kept."


class RayEngine:
    """An engine for `encoder.bulk.run.embed_file`.

    Attributes:
        workers: Models that compute at once.
    """

    def __init__(self, workers: int = 1) -> None:
        """Look for Ray. Raises ExtraMissing."""
        # Before the first import: Ray reports its use to its makers unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray.data  # noqa: F401
        except ImportError:
            raise ExtraMissing("ray", "ray") from None
        self.workers = workers

    def __call__(self, task: Task, model: Model, open_model: OpenModel, tick: Tick) -> Iterator[Done]:
        """The computed windows of a task, in their order.

        The actors compute on the provider and in the precision of `model`, so that all vectors are of one kind. Ray is
        started on this machine unless it runs already, or RAY_ADDRESS names a cluster.
        """
        import ray

        started = not ray.is_initialized()
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if started:
            # On this machine, one more than the actors hold: reading never waits for one of them to end.
            cpus = None if os.environ.get("RAY_ADDRESS") else self.workers + 1
            ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            session = model.encoder.session
            dataset = self._dataset(task, open_model, (str(session.provider), str(session.precision)))
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                done = _done(table, task)
                tick(len(done.where))
                yield done
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, EncoderError):
                raise cause from None
            raise FileRefused(f"Ray could not finish the run: {type(error).__name__}") from error
        finally:
            if started:
                ray.shutdown()

    def _dataset(self, task: Task, open_model: OpenModel, pinned: tuple[str, str]) -> "Dataset":
        import ray.data
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        before = context.target_max_block_size, context.execution_options.preserve_order, context.enable_progress_bars
        context.target_max_block_size = WINDOW_BYTES
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        try:
            dataset: Dataset = ray.data.read_datasource(_source(task), num_cpus=0).map_batches(
                _Embed,
                fn_constructor_args=(open_model, pinned, task.options.truncate, task.base),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=self.workers),
                num_cpus=1,
            )
            return dataset
        finally:
            context.target_max_block_size, context.execution_options.preserve_order, context.enable_progress_bars = (
                before
            )


class _Embed:
    """An actor: a model, opened once, that embeds one table after another."""

    def __init__(self, open_model: OpenModel, pinned: tuple[str, str], truncate: bool, base: bool) -> None:
        self._model = open_model(pinned)
        self._truncate = truncate
        self._base = base

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table[_ROW].to_pylist()
        lines = table[_LINE].to_pylist()
        bad = [
            BadRow(row, line, why)
            for row, line, why in zip(rows, lines, table[_WHY].to_pylist(), strict=True)
            if why is not None
        ]
        numbered: list[int] = [line for line in lines if line is not None]
        window = Window(rows[0], table[_TEXT].to_pylist(), numbered or None, bad, None)
        windows = compute(
            iter([window]), self._model, truncate=self._truncate, base=self._base, tick=lambda texts: None
        )
        done = next(windows)
        windows.close()  # type: ignore[attr-defined]
        why = dict.fromkeys(rows) | {row.row: row.why for row in done.bad}
        table = table.drop_columns([_TEXT, _WHY]).append_column(_WHY, pa.array(list(why.values()), pa.string()))
        table = table.append_column(_TOKENS, pa.array([done.tokens] + [0] * (len(rows) - 1), pa.int64()))
        for name, vectors in ((EMBEDDING, done.embedding), (BASE, done.base)):
            if vectors is not None:
                table = table.append_column(name, vector_array(vectors, (done.where, len(rows))))
        return table


def _done(table: pa.Table, task: Task) -> Done:
    """What the actors gave, as the writer takes it."""
    batch = table.combine_chunks()
    rows, lines, why = (batch[name].to_pylist() for name in (_ROW, _LINE, _WHY))
    bad = [BadRow(row, line, fault) for row, line, fault in zip(rows, lines, why, strict=True) if fault is not None]
    where = np.array([index for index, fault in enumerate(why) if fault is None], dtype=np.int64)
    vectors = {
        name: vectors_of(batch[name].combine_chunks().drop_null())
        for name in (EMBEDDING, BASE)
        if name in batch.schema.names
    }
    kept = None
    if len(task.schema):
        columns = [batch[_KEPT + field.name].combine_chunks().cast(field.type) for field in task.schema]
        kept = pa.RecordBatch.from_arrays(columns, schema=task.schema)
    return Done(
        rows[0], len(rows), where, vectors[EMBEDDING], vectors.get(BASE), kept, bad, sum(batch[_TOKENS].to_pylist())
    )


def _tables(task: Task) -> Iterator[pa.Table]:
    """The rows of a task as tables: row, line, text, why it is bad, and the kept columns under prefixed names."""
    for window in task.windows():
        count = len(window.texts)
        faults = {row.row: row.why for row in window.bad}
        rows = range(window.first, window.first + count)
        columns = {
            _ROW: pa.array(rows, pa.int64()),
            _LINE: pa.nulls(count, pa.int64()) if window.lines is None else pa.array(window.lines, pa.int64()),
            _TEXT: pa.array(window.texts, pa.large_string()),
            _WHY: pa.array([faults.get(row) for row in rows], pa.string()),
        }
        if window.kept is not None:
            columns |= {_KEPT + name: window.kept.column(name) for name in window.kept.schema.names}
        yield pa.table(columns)


def _source(task: Task) -> "Datasource":
    """A Ray Data source of one read task; the class is made here because its base is Ray's."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Rows(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(
            self,
            parallelism: int,
            per_task_row_limit: int | None = None,
            data_context: "DataContext | None" = None,
        ) -> list[ReadTask]:
            unknown: Any = None
            return [ReadTask(lambda: _tables(task), BlockMetadata(unknown, None, unknown, None))]

    rows: Any = Rows
    return rows()  # type: ignore[no-any-return]
