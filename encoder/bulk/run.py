"""Embedding a file from end to end: look at it, take up what an earlier run left, compute, publish in one rename."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from encoder.bulk.errors import SHOWN_ROWS, BadRow, FileRefused, ResumeRefused, RowsRefused
from encoder.bulk.layout import Origin, program, schema_of
from encoder.bulk.local import Tick, compute
from encoder.bulk.model import Model, OpenModel
from encoder.bulk.options import OnError, Options
from encoder.bulk.parts import Assembler, Folder, Part
from encoder.bulk.survey import Identity, Survey, Task, Watch, survey
from encoder.bulk.window import Done

STATE = 1

Engine = Callable[[Task, Model, OpenModel, Tick], Iterator[Done]]
"""Gives the computed windows of a task in their order; told after each batch how many texts it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did.

    Attributes:
        out: The file.
        rows: Rows of the input.
        embedded: Rows with a vector.
        bad: The first of the others.
        resumed: Rows that an earlier run had done.
        tokens: Tokens embedded by this run.
        seconds: From the opened model to the published file.
        texts_per_second: Of this run, reading and writing included, the first look left out.
        origin: What the file's metadata says.
        already: Whether the output was there before, made from the same input, options and model.
    """

    out: Path
    rows: int
    embedded: int
    bad: list[BadRow]
    resumed: int
    tokens: int
    seconds: float
    texts_per_second: float
    origin: Origin
    already: bool = False


def local(task: Task, model: Model, open_model: OpenModel, tick: Tick) -> Iterator[Done]:
    """The engine of this process."""
    return compute(task.windows(), model, truncate=task.options.truncate, base=task.base, tick=tick)


def embed_file(
    source: Path,
    out: Path,
    open_model: OpenModel,
    options: Options,
    *,
    engine: Engine = local,
    asked: tuple[str, str] = ("auto", "auto"),
    restart: bool = False,
    overwrite: bool = False,
    watch: Watch = lambda what, done, total: None,
) -> Summary:
    """Embed every text of a file into a Parquet file, going on where an earlier run with the same arguments stopped.

    Args:
        source: JSONL, CSV (both perhaps .gz or .zst) or Parquet.
        out: The Parquet file to make; `out` with `.parts` appended holds what is done until it is whole.
        open_model: Opens the model.
        options: How to read, and what to write.
        engine: What computes.
        asked: Provider and precision that the user asked for; "auto" takes an `out` made with any.
        restart: Throw away what an earlier run left, and an `out` of the same job.
        overwrite: Replace an `out`, whatever it holds.
        watch: Told of the progress.

    Raises:
        FileRefused: The input or the output cannot be used.
        RowsRefused: Rows cannot be embedded and none may be left out; what was done before them is kept.
        ResumeRefused: What an earlier run left was made from another input, model or set of options.
    """
    _check_places(source, out)
    folder = Folder(out)
    with folder.locked():
        state = None if restart else folder.state()
        if state is not None and state.get("schema") != STATE:
            raise ResumeRefused("another version of Driftline began this run; --restart begins anew")
        watch("checking", 0, source.stat().st_size)
        identity = Identity.of(source, state and state["input"])
        model = open_model((state["model"]["provider"], state["model"]["precision"]) if state else None)
        began = time.perf_counter()
        origin = _origin(model, options, identity)
        if state is not None:
            _check_state(state, identity, model, options)
        if out.exists() and not overwrite and (there := _already(out, origin, asked, restart)) is not None:
            folder.clear()
            return there
        if state is None:
            folder.clear()  # parts that no state tells about may be of any job
            found = survey(source, options, model.encoder.tokenizer, watch)
        else:
            found = Survey.from_dict(state["survey"])
        if options.on_error is OnError.REFUSE and found.bad:
            raise RowsRefused(
                found.examples, found.bad, "Nothing was embedded; --on-error skip or null goes on without such rows"
            )
        folder.begin(_state(identity, model, options, found))
        return _Run(source, folder, model, options, origin, found, watch).run(engine, open_model, identity, began)


class _Run:
    """The computing part of a run, with what it counts."""

    def __init__(
        self, source: Path, folder: Folder, model: Model, options: Options, origin: Origin, found: Survey, watch: Watch
    ) -> None:
        self._source = source
        self._folder = folder
        self._model = model
        self._options = options
        self._origin = origin
        self._found = found
        self._watch = watch
        self._ticked = 0
        self._tokens = 0
        self._computed = 0
        self._bad = {row.row: row for row in found.examples}

    def run(self, engine: Engine, open_model: OpenModel, identity: Identity, began: float) -> Summary:
        """Compute what is missing and publish."""
        nullable = self._options.on_error is OnError.NULL
        schema = schema_of(self._found.schema, self._model.dimension, base=self._origin.base, nullable=nullable)
        parts = self._folder.parts()
        resumed = parts[-1].last if parts else 0
        task = Task(self._source, self._options, self._found.schema, resumed + 1, self._origin.base)
        self._ticked = resumed
        self._watch("embedding", resumed, self._found.rows)
        start = time.perf_counter()
        assembler = Assembler(self._folder, schema, self._origin)
        try:
            for part in parts:
                assembler.add(part)
            last = self._compute(engine(task, self._model, open_model, self._tick), schema, assembler, resumed)
            took = time.perf_counter() - start
            if last != self._found.rows:
                raise FileRefused("the input changed while it was embedded; nothing was published")
            identity.require_unchanged(self._source)
            embedded = assembler.finish()
        finally:
            assembler.stop()
        return Summary(
            out=self._folder.out,
            rows=self._found.rows,
            embedded=embedded,
            bad=[self._bad[row] for row in sorted(self._bad)][:SHOWN_ROWS],
            resumed=resumed,
            tokens=self._tokens,
            seconds=time.perf_counter() - began,
            texts_per_second=self._computed / took,
            origin=self._origin,
        )

    def _compute(self, engine: Iterator[Done], schema: pa.Schema, assembler: Assembler, last: int) -> int:
        """Write every window while the next ones are computed; gives the last row done."""
        writing: Future[Part] | None = None
        with ThreadPoolExecutor(1, "bulk-write") as writer:
            for done in engine:
                if done.first != last + 1:
                    raise FileRefused("the input changed while it was embedded; nothing was published")
                if writing is not None:
                    assembler.add(writing.result())
                    writing = None
                self._count(done)
                writing = writer.submit(self._folder.write, done, schema)
                last += done.rows
            if writing is not None:
                assembler.add(writing.result())
        return last

    def _count(self, done: Done) -> None:
        if done.bad and self._options.on_error is OnError.REFUSE:
            kept = "The rows before it are kept: the same command with --truncate, or --on-error skip or null, goes on"
            raise RowsRefused(done.bad, len(done.bad), kept)
        self._tokens += done.tokens
        self._computed += len(done.where)
        if len(self._bad) < SHOWN_ROWS:
            self._bad |= {row.row: row for row in done.bad}
        self._ticked = done.first + done.rows - 1
        self._watch("embedding", self._ticked, self._found.rows)

    def _tick(self, texts: int) -> None:
        self._ticked += texts
        self._watch("embedding", min(self._ticked, self._found.rows), self._found.rows)


def _check_places(source: Path, out: Path) -> None:
    if not source.is_file():
        raise FileRefused("the input is not a file")
    if out.is_dir() or not out.parent.is_dir():
        raise FileRefused("the output must be a file in a folder that exists")
    if out.exists() and out.samefile(source):
        raise FileRefused("the output cannot be the input")


def _origin(model: Model, options: Options, identity: Identity) -> Origin:
    session = model.encoder.session
    if options.base and model.lora is not None:
        raise FileRefused("a LoRA version acts inside the backbone: there are no base vectors to store")
    base = model.head is not None if options.base is None else options.base
    content = {
        "input": identity.sha256,
        "options": {**options.to_dict(), "base": base},
        "model": [model.name, model.version, model.encoder.digest],
    }
    return Origin(
        model=model.name,
        kind=model.kind,
        version=model.version,
        backbone=model.encoder.digest,
        provider=str(session.provider),
        precision=str(session.precision),
        dimension=model.dimension,
        base=base,
        text_column=options.text_column,
        id_column=options.id_column,
        truncate=options.truncate,
        input=identity.sha256,
        job=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        created_by=program(),
    )


def _state(identity: Identity, model: Model, options: Options, found: Survey) -> dict[str, Any]:
    session = model.encoder.session
    return {
        "schema": STATE,
        "input": {field.name: getattr(identity, field.name) for field in fields(Identity)},
        "options": options.to_dict(),
        "model": {
            "name": model.name,
            "version": model.version,
            "backbone": model.encoder.digest,
            "provider": str(session.provider),
            "precision": str(session.precision),
        },
        "survey": found.to_dict(),
    }


def _check_state(state: dict[str, Any], identity: Identity, model: Model, options: Options) -> None:
    """See that what an earlier run left is of the same job. Raises ResumeRefused."""
    what = None
    if state["input"]["sha256"] != identity.sha256:
        what = "the input has other bytes than when this run was begun"
    elif (state["model"]["version"], state["model"]["backbone"]) != (model.version, model.encoder.digest):
        what = f"this run was begun with {state['model']['name']}, not {model.name}"
    else:
        earlier = Options.from_dict(state["options"])
        if not options.may_follow(earlier):
            changed = [f.name for f in fields(Options) if getattr(earlier, f.name) != getattr(options, f.name)]
            what = f"this run was begun with other options ({', '.join(changed)})"
    if what is not None:
        raise ResumeRefused(f"{what}; go on as it was begun, or begin anew with --restart")


def _already(out: Path, origin: Origin, asked: tuple[str, str], restart: bool) -> Summary | None:
    """The summary of an output that is there already; None where it is made anew. Raises FileRefused."""
    try:
        with pq.ParquetFile(out) as file:
            there = Origin.of(file.schema_arrow.metadata)
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError, FileRefused):
        there = None
    if there is None or there.job != origin.job:
        raise FileRefused("the output exists, and holds something else; --overwrite replaces it")
    if restart:
        return None
    made = (there.provider, there.precision)
    if any(wish not in ("auto", had) for wish, had in zip(asked, made, strict=True)):
        raise FileRefused(f"the output exists, made on {made[0]} in {made[1]}; --overwrite replaces it")
    return Summary(
        out=out,
        rows=rows,
        embedded=rows,
        bad=[],
        resumed=rows,
        tokens=0,
        seconds=0.0,
        texts_per_second=0.0,
        origin=there,
        already=True,
    )
