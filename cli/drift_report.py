"""`driftline drift report`: one page on the state of an adapter's monitor, or the same as JSON."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from monitoring.monitor import Monitor
    from monitoring.monitor_settings import MonitorSettings
    from monitoring.reference import Reference
    from registry.readings import MonitorState
    from registry.registry import Registry

READINGS = 400
EXAMPLES = 3
"""Texts of each neighbourhood, where they are asked for."""


def register(app: typer.Typer) -> None:
    """Add the command to the group `drift`."""
    app.command()(report)


@friendly
def report(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write [default: such as banking@3-drift.html]; - for standard output."),
    ] = None,
    with_texts: Annotated[
        bool, typer.Option("--with-texts", help="Show kept texts of users; the page then holds them.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a page on the live version's monitor: state, evidence, novelty, neighbourhoods, a map, and advice.

    From what the registry holds, so no service need run. --json prints what the page shows and writes a page only where
    --out says so. Run lengths and lines follow the variables of the service.
    """
    found = _document(name, with_texts=with_texts, data_dir=data_dir)
    if as_json and out is None:
        print_json(found)
        return
    path = out or Path(f"{found['version']}-drift.html")
    if str(path) != "-" and path.exists() and not overwrite:
        raise fail(f"{path} exists; --overwrite replaces it")
    try:
        from training.drift_report.page import render
    except ModuleNotFoundError as error:
        raise fail(f"the page needs {error.name}, which the extra `train` brings; --json needs nothing") from None
    page = render(found)
    if str(path) == "-":
        typer.echo(page, nl=False)
        return
    try:
        path.write_bytes(page)
    except OSError as error:
        raise fail(f"{path} cannot be written: {error.strerror}") from None
    if as_json:
        print_json(found)
        return
    console.print(f"Wrote the drift report of [bold]{found['version']}[/bold] to {path}", soft_wrap=True)


def _document(name: str, *, with_texts: bool, data_dir: Path | None) -> dict[str, Any]:
    """What the page shows.

    Raises NotFound where nothing is live.
    """
    from monitoring.advice import advise
    from monitoring.drift_document import Material, document
    from monitoring.reference import Reference
    from monitoring.situation import situation
    from registry import readings, versions
    from registry.errors import NotFound

    settings = _settings()
    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            versions.get_adapter(session, name)
            live = versions.live(session, name)
        if live is None:
            raise NotFound("live version of", name)
        if live.reference is None:
            raise fail(f"{live.name} has no reference; driftline drift rebuild {name} builds one")
        reference = Reference.from_bytes(registry.fetch(live.reference))
        with registry.reading() as session:
            kept = readings.get_state(session, name, live.number)
            stored = readings.latest(session, name, READINGS, version=live.number)
        monitor = _monitor(reference, settings, kept)
        with registry.reading() as session:
            known = situation(
                session,
                name,
                why_not=monitor.why_not,
                withdrawn=reference.calibrated and not monitor.calibrated,
            )
        examples = _examples(registry, name, live.number, reference) if with_texts else None
    return document(
        Material(
            adapter=name,
            version=live.name,
            made_at=datetime.now(UTC),
            monitor=monitor,
            kept=kept,
            readings=stored[::-1],
            advice=advise(known, settings),
            examples=examples,
        )
    )


def _settings() -> "MonitorSettings":
    """How the service judges, as its variables say."""
    from monitoring.monitor_settings import MonitorSettings
    from service import Settings

    nothing: dict[str, Any] = {}
    given = Settings(**nothing)
    return MonitorSettings(
        window=given.drift_window,
        arl=given.drift_arl,
        mode=given.drift_mode,
        min_novelty_ratio=given.drift_min_novelty_ratio,
        min_tv=given.drift_min_tv,
        min_auc=given.drift_min_auc,
    )


def _monitor(reference: "Reference", settings: "MonitorSettings", kept: "MonitorState | None") -> "Monitor":
    """The monitor of a stored state, with the alarm as the registry has it: it alone says whether one stands."""
    from monitoring.errors import MonitoringError
    from monitoring.monitor import Monitor
    from monitoring.situation import alarm_of

    try:
        monitor = Monitor(reference, settings, None if kept is None else kept.state)
    except MonitoringError:  # of another reference, or damaged: a service would begin afresh, too
        monitor = Monitor(reference, settings)
    if kept is not None and kept.alarm_active:
        monitor.latch(alarm_of(kept))
    elif monitor.alarm is not None:
        monitor.acknowledge()
    return monitor


def _examples(registry: "Registry", name: str, number: int, reference: "Reference") -> dict[int, list[str]]:
    """The newest kept texts of each neighbourhood."""
    from service import items

    texts = items.kept(registry, name, number, reference.dimension)
    found: dict[int, list[str]] = {}
    if not len(texts.rows):
        return found
    for row, cell in zip(texts.rows, reference.assign(texts.vectors).tolist(), strict=True):
        own = found.setdefault(cell, [])
        if len(own) < EXAMPLES:
            own.append(row.text)
    return found
