"""`driftline drift replay`: a recorded stream through a reference's monitor, and when it would have alarmed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from monitoring.reference import Reference
    from monitoring.replay_stream import Raised, Replayed
    from monitoring.stream_rows import Stream

SHOWN_ALARMS = 20
ENCODED = 256


class Mode(StrEnum):
    """As `monitoring.monitor_settings.Mode`, which needs not be imported to show the help."""

    SEQUENTIAL = "sequential"
    WINDOWS = "windows"


class PeriodName(StrEnum):
    """As `monitoring.replay_stream.Period`."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


def register(app: typer.Typer) -> None:
    """Add the command to the group `drift`."""
    app.command()(replay)


@friendly
def replay(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL or CSV (perhaps .gz) with a text or a vector in each row, or vectors as .npy.",
            exists=True,
            dir_okay=False,
        ),
    ],
    adapter: Annotated[str | None, typer.Option(help="Adapter whose live version's reference is replayed to.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="A stored reference in place of --adapter; for vectors only.", exists=True, dir_okay=False),
    ] = None,
    arl: Annotated[int, typer.Option(help="Mean items between false alarms.", min=100)] = 1_000_000,
    window: Annotated[int, typer.Option(help="Items in one reading of a stream without dates.", min=32)] = 256,
    mode: Annotated[Mode, typer.Option(help="Judge all evidence so far, or windows one by one.")] = Mode.SEQUENTIAL,
    acknowledge: Annotated[bool, typer.Option("--acknowledge", help="Release each alarm and go on from it.")] = False,
    period: Annotated[
        PeriodName | None, typer.Option(help="What is read together in a dated stream [default: by its length].")
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field or column with the texts.")] = "text",
    date_field: Annotated[str, typer.Option(help="Field or column with the dates, ISO 8601 or seconds.")] = "at",
    provider: Annotated[str, typer.Option(envvar="DRIFTLINE_PROVIDER", help="Execution provider.")] = "auto",
    precision: Annotated[str, typer.Option(envvar="DRIFTLINE_PRECISION", help="Number format.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(envvar="DRIFTLINE_THREADS", help="Threads of the runtime [default: every core].", min=1),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a recorded stream through a fresh monitor: when it would have alarmed, why, and what each period held.

    Nothing is stored. Texts are encoded by the live version. Fields segment and label are read where they are there;
    dated rows are taken in the order of their dates.
    """
    from monitoring.monitor_settings import MonitorSettings
    from monitoring.replay_stream import replay_stream
    from monitoring.stream_rows import read_stream

    if (adapter is None) == (reference is None):
        raise fail("name an adapter with --adapter, or a stored reference with --reference", 2)
    try:
        settings = MonitorSettings(arl=arl, window=window, mode=mode.value)
    except ValueError as error:
        raise fail(str(error), 2) from None
    stream = read_stream(file.name, file.read_bytes(), text_field, date_field)
    if adapter is not None:
        against, vectors, name = _of_adapter(adapter, stream, data_dir, (provider, precision, threads), as_json)
    else:
        against, vectors, name = *_of_file(reference, stream), str(reference)
    with _progress("replaying", len(stream), quiet=as_json) as tell:
        found = replay_stream(
            against,
            vectors,
            settings,
            at=stream.at,
            segments=stream.segments,
            acknowledge=acknowledge,
            period=None if period is None else period.value,
            tell=tell,
        )
    told = {"reference": name, "file": file.name, **found.to_json()}
    for alarm, raised in zip(told["alarms"], found.raised, strict=True):
        alarm["row"] = stream.rows[raised.item - 1]
        alarm["change_label"] = None if stream.labels is None else stream.labels[raised.began - 1]
    if as_json:
        print_json(told)
        return
    _show(found, stream, name)


def _of_adapter(
    name: str, stream: "Stream", data_dir: Path | None, runtime: tuple[str, str, int | None], quiet: bool
) -> "tuple[Reference, NDArray[np.float32], str]":
    """The live version's reference, the stream's vectors under it, and the version's name."""
    import numpy as np

    from encoder.encoder import Encoder
    from monitoring.reference import Reference
    from registry import versions
    from registry.errors import NotFound
    from training.served import encode_with

    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            versions.get_adapter(session, name)
            live = versions.live(session, name)
        if live is None:
            raise NotFound("live version of", name)
        if live.reference is None:
            raise fail(f"{live.name} has no reference; driftline drift rebuild {name} builds one")
        found = Reference.from_bytes(registry.fetch(live.reference))
        if stream.vectors is not None:
            return found, stream.vectors, live.name
        provider, precision, threads = runtime
        encoder = Encoder.open(live.backbone, registry.fetch, provider=provider, precision=precision, threads=threads)
        encode = encode_with(encoder, registry.fetch, live.kind, live.digest)
    texts = stream.texts or ()
    parts = []
    with _progress("encoding", len(texts), quiet=quiet) as tell:
        for start in range(0, len(texts), ENCODED):
            parts.append(encode(texts[start : start + ENCODED]))
            tell(min(len(texts), start + ENCODED))
    return found, np.concatenate(parts), live.name


def _of_file(path: Path | None, stream: "Stream") -> "tuple[Reference, NDArray[np.float32]]":
    from monitoring.reference import Reference

    if path is None or stream.vectors is None:
        raise fail("a reference by itself cannot encode texts: name the adapter with --adapter, or give vectors", 2)
    return Reference.from_bytes(path.read_bytes()), stream.vectors


@contextmanager
def _progress(what: str, total: int, *, quiet: bool) -> "Iterator[Callable[[int], None]]":
    """A bar on standard error that hears how many are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _show(found: "Replayed", stream: "Stream", name: str) -> None:
    """Print a replay: alarms, readings by period, and how long it was quiet."""
    console.print(f"[bold]{found.n:,} items[/bold] against {name}, {_dates(stream)}", soft_wrap=True)
    if found.why_not is not None:
        console.print(f"No alarm can be raised: {found.why_not}", markup=False, soft_wrap=True)
    for raised in found.raised[:SHOWN_ALARMS]:
        _show_alarm(raised, stream)
    if len(found.raised) > SHOWN_ALARMS:
        console.print(f"and {len(found.raised) - SHOWN_ALARMS} more alarms")
    if not found.raised:
        console.print(f"[green]no alarm[/green] in {found.n:,} items")
    table = Table("period", "items", "novelty rate", "times the expected rate", "occupancy beyond chance", "alarms")
    for part in found.periods:
        novelty, occupancy = part.reading.statistic("novelty"), part.reading.statistic("occupancy")
        table.add_row(
            part.name,
            str(part.reading.n),
            f"{novelty.value:.3f}",
            f"{novelty.effect:.2f}{_between(novelty.interval)}",
            f"{occupancy.effect:.3f}{_between(occupancy.interval)}",
            str(part.alarms or ""),
        )
    console.print(table)
    console.print(_quiet(found), soft_wrap=True)


def _show_alarm(raised: "Raised", stream: "Stream") -> None:
    alarm = raised.alarm
    when = "" if raised.at is None else f" of {raised.at:%Y-%m-%d %H:%M}"
    began = "" if raised.began_at is None else f" of {raised.began_at:%Y-%m-%d %H:%M}"
    console.print(f"[red]alarm[/red] at item {raised.item:,} (row {stream.rows[raised.item - 1]:,}){when}")
    console.print(f"  the change is thought to begin at item {raised.began:,}{began}", soft_wrap=True)
    for named in alarm.detectors:
        where = "" if named.cell is None else f", cell {named.cell} ({named.label or 'no label'})"
        where += "" if named.segment is None else f", segment {named.segment}"
        console.print(f"  {named.detector}{where}: {named.share:.0%} of the evidence", markup=False, soft_wrap=True)
    for measure, effect in alarm.effects.items():
        console.print(f"  {measure} {effect.value:.3g} ({effect.low:.3g} to {effect.high:.3g})", soft_wrap=True)
    console.print("  large enough to act on" if alarm.actionable else "  too small to act on")
    moved = [str(cell.get("label") or f"cell {cell['cell']}") for cell in alarm.moved[:5]]
    if moved:
        console.print(f"  moved: {', '.join(moved)}", markup=False, soft_wrap=True)


def _quiet(found: "Replayed") -> str:
    """How long it was quiet, beside what is stated and what the reference's own items show."""
    words = [f"Stated: a false alarm every {found.settings.arl:,} items on average."]
    count = len(found.raised)
    if found.quiet:
        words.append(
            f"Here: {count} alarm{'s' if count > 1 else ''} in {found.judged:,} items, after quiet runs of "
            f"{', '.join(f'{run:,}' for run in found.quiet[:SHOWN_ALARMS])}."
        )
    else:
        words.append(f"Here: {found.judged:,} items without an alarm.")
    if found.replay is not None:
        measured = found.replay.measured
        words.append(
            f"On {found.replay.observations:,} held-out items of the reference, at a reduced line of "
            f"{found.replay.stated:,.0f}: " + ("no alarm." if measured is None else f"one every {measured:,.0f}.")
        )
    return " ".join(words)


def _dates(stream: "Stream") -> str:
    if stream.at is None:
        return "without dates, in the order of the file"
    return f"{stream.at[0]:%Y-%m-%d} to {stream.at[-1]:%Y-%m-%d}"


def _between(interval: Any) -> str:
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
