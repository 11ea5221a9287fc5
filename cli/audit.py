"""`driftline audit`: the registry's journal: who did what to what, and when."""

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from registry.events import Event
    from registry.registry import Registry

POLL_SECONDS = 1.0


@friendly
def audit(
    kind: Annotated[str | None, typer.Option(help="A kind such as version.promoted, or a group such as key.")] = None,
    subject: Annotated[str | None, typer.Option(help="What it was done to, such as banking@7 or a key's id.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who did it: a key's name, cli, a job's id, system.")] = None,
    days: Annotated[float | None, typer.Option(help="Only the last so many days.", min=0, max=36_500)] = None,
    before: Annotated[int | None, typer.Option(help="Only events before this id, for the next page.", min=1)] = None,
    limit: Annotated[int, typer.Option(help="Most events printed.", min=1, max=100_000)] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Go on printing what happens, until stopped.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Changes that were made and by whom, oldest of them first. With --json and --follow: one document a line."""
    from registry import events

    if follow and before is not None:
        raise fail("--before and --follow do not go together", 2)
    chosen: dict[str, Any] = {"kind": kind, "subject": subject, "actor": actor}
    if days is not None:
        chosen["since"] = datetime.now(UTC) - timedelta(days=days)
    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            last = events.latest_id(session)
            found = events.page(session, before=before, limit=limit, **chosen)[::-1]
        if as_json and not follow:
            print_json([event.to_json() for event in found])
            return
        for event in found:
            _print(event, as_json)
        while follow:
            time.sleep(POLL_SECONDS)
            last = _catch_up(registry, last, chosen, as_json)


def _catch_up(registry: "Registry", last: int, chosen: dict[str, Any], as_json: bool) -> int:
    """Print what came after an event; the id of the last one that was looked at."""
    from registry import events

    with registry.reading() as session:
        newest = events.latest_id(session)
        found = events.page(session, after=last, limit=10_000, **chosen)
    for event in found:
        _print(event, as_json)
    return newest


def _print(event: "Event", as_json: bool) -> None:
    shown = event.to_json()
    if as_json:
        typer.echo(orjson.dumps(shown).decode())
        return
    detail = " ".join(f"{name}={value}" for name, value in shown["detail"].items() if value is not None)
    console.print(
        f"{event.id:>7}  {event.at:%Y-%m-%d %H:%M:%S}  {event.actor:<20} {event.kind:<24} {event.subject}  {detail}",
        markup=False,
        soft_wrap=True,
    )
