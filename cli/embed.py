"""`driftline embed`: a whole file into Parquet, streamed, taken up where a killed run stopped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from encoder.bulk.run import Summary
    from encoder.bulk.survey import Watch


class Engine(StrEnum):
    """Where a run computes."""

    LOCAL = "local"
    RAY = "ray"


class OnBadRow(StrEnum):
    """As `encoder.bulk.options.OnError`, which needs not be imported to show the help."""

    REFUSE = "refuse"
    SKIP = "skip"
    NULL = "null"


class InputFormat(StrEnum):
    """As `encoder.bulk.options.Format`."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@friendly
def embed(
    file: Annotated[
        Path, typer.Argument(help="JSONL or CSV (perhaps .gz or .zst), or Parquet.", exists=True, dir_okay=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    model: Annotated[
        str | None, typer.Option(help="Backbone, adapter, or adapter@version [default: the default backbone].")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column or field with the texts.")] = "text",
    id_column: Annotated[str | None, typer.Option(help="Column that identifies a row; kept as the first one.")] = None,
    keep: Annotated[str | None, typer.Option(help="Other columns to keep, with commas between.")] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every column.")] = False,
    base: Annotated[
        bool | None,
        typer.Option(
            "--base/--no-base",
            help="Store the base vectors too, for `driftline reproject` [default: where the model is a head adapter].",
            show_default=False,
        ),
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long.")] = False,
    on_error: Annotated[
        OnBadRow,
        typer.Option(help="A row without a text to embed: refuse the file, skip it, or leave its vector null."),
    ] = OnBadRow.REFUSE,
    format_: Annotated[
        InputFormat | None, typer.Option("--format", help="Format of the file [default: by the ending].")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Compute in this process, or over Ray Data.")] = Engine.LOCAL,
    workers: Annotated[int, typer.Option(help="Models that compute at once, with --engine ray.", min=1)] = 1,
    provider: Annotated[str, typer.Option(envvar="DRIFTLINE_PROVIDER", help="Execution provider.")] = "auto",
    precision: Annotated[str, typer.Option(envvar="DRIFTLINE_PRECISION", help="Number format.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(envvar="DRIFTLINE_THREADS", help="Threads of the runtime [default: every core].", min=1),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever an earlier run left.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Embed every text of a file; after an interruption the same command goes on where it stopped."""
    from encoder.bulk.errors import need_pyarrow

    need_pyarrow()
    from cli.models import Opening, find
    from encoder.bulk.options import Format, OnError, Options
    from encoder.bulk.run import embed_file, local

    if keep is not None and keep_all:
        raise fail("give --keep or --keep-all, not both", 2)
    names = tuple(name.strip() for name in (keep or "").split(",") if name.strip())
    options = Options(
        format=None if format_ is None else Format(format_),
        text_column=text_column,
        id_column=id_column,
        keep=None if keep_all else names,
        truncate=truncate,
        on_error=OnError(on_error),
        base=base,
    )
    compute = local
    if engine is Engine.RAY:
        from encoder.bulk.ray_engine import RayEngine

        compute = RayEngine(workers)
    with opened(data_dir) as (home, registry):
        meant = find(registry, model)
    opening = Opening(home.data_dir, meant, provider, precision, threads)
    try:
        with shown() as watch:
            summary = embed_file(
                file,
                out,
                opening,
                options,
                engine=compute,
                asked=(provider, precision),
                restart=restart,
                overwrite=overwrite,
                watch=watch,
            )
    except KeyboardInterrupt:
        raise fail("stopped; what is done is kept, and the same command goes on from there", 130) from None
    if as_json:
        print_json(summary_json(summary))
    else:
        show(summary)


@contextmanager
def shown() -> Iterator["Watch"]:
    """Progress with rate and time left, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), _Rate())
    with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True, refresh_per_second=4) as bar:
        tasks: dict[str, Any] = {}

        def watch(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(
                    what, total=total, completed=done, unit="rows" if what != "checking" else "B"
                )
            bar.update(tasks[what], completed=done, total=total)

        yield watch


class _Rate(ProgressColumn):
    """Rows a second, where rows are counted."""

    def render(self, task: Task) -> Text:
        if task.fields.get("unit") != "rows" or not task.speed:
            return Text("")
        return Text(f"{task.completed:,.0f} of {task.total or 0:,.0f} rows, {task.speed:,.0f} a second")


def summary_json(summary: "Summary") -> dict[str, Any]:
    """A run as one JSON object."""
    origin = summary.origin
    return {
        "out": str(summary.out),
        "rows": summary.rows,
        "embedded": summary.embedded,
        "left_out": summary.rows - summary.embedded,
        "bad_rows": [{"row": bad.row, "line": bad.line, "why": bad.why} for bad in summary.bad],
        "resumed_rows": summary.resumed,
        "already_done": summary.already,
        "tokens": summary.tokens,
        "seconds": round(summary.seconds, 3),
        "texts_per_second": round(summary.texts_per_second, 1),
        "model": origin.model,
        "kind": origin.kind,
        "version": origin.version,
        "backbone": origin.backbone,
        "provider": origin.provider,
        "precision": origin.precision,
        "dimension": origin.dimension,
        "base": origin.base,
    }


def show(summary: "Summary") -> None:
    """Print a run in a few lines."""
    origin = summary.origin
    if summary.already:
        console.print(f"{summary.out} is there already, made of this input with {origin.model}.", soft_wrap=True)
        return
    again = f", {summary.resumed:,} of them by an earlier run" if summary.resumed else ""
    took = time.strftime("%H:%M:%S", time.gmtime(summary.seconds))
    console.print(
        f"Embedded {summary.embedded:,} of {summary.rows:,} rows{again} with [bold]{origin.model}[/bold] "
        f"({origin.provider}, {origin.precision}) in {took}, {summary.texts_per_second:,.0f} rows a second, "
        f"to {summary.out}",
        soft_wrap=True,
    )
    for bad in summary.bad:
        console.print(f"  left out: {bad}", markup=False, soft_wrap=True)
    more = summary.rows - summary.embedded - len(summary.bad)
    if more > 0:
        console.print(f"  and {more:,} more")
