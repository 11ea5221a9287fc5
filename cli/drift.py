"""`driftline drift`: the newest readings of an adapter's monitor, and the acknowledgement of an alarm."""

from typing import Annotated

import typer
from rich.table import Table

from cli import drift_items, drift_replay, drift_report, drift_versions
from cli.common import AsJson, DataDir, console, friendly, opened, print_json

app = typer.Typer(no_args_is_help=True)
drift_items.register(app)
drift_versions.register(app)
drift_replay.register(app)
drift_report.register(app)
Name = Annotated[str, typer.Argument(help="Name of the adapter.")]


@app.command()
@friendly
def show(
    name: Name,
    limit: Annotated[int, typer.Option(help="How many readings.", min=1, max=1000)] = 10,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The newest readings, newest first, and whether an alarm is latched."""
    from registry import readings, versions

    with opened(data_dir) as (_, registry), registry.reading() as session:
        versions.get_adapter(session, name)
        found = readings.latest(session, name, limit)
        state = readings.get_state(session, name)
    active = bool(state and state.alarm_active)
    if as_json:
        rows = [
            {"at": r.at, "version": r.version, "window": r.window_n, "statistics": r.statistics, "alarm": r.alarm}
            for r in found
        ]
        print_json({"adapter": name, "alarm_active": active, "readings": rows})
        return
    console.print(f"[bold]{name}[/bold]: " + ("[red]alarm[/red]" if active else "[green]no alarm[/green]"))
    table = Table("at", "version", "window", "novelty rate", "occupancy shift (TV)", "alarm")
    for r in found:
        statistics = r.statistics
        table.add_row(
            f"{r.at:%Y-%m-%d %H:%M:%S}",
            f"{name}@{r.version}",
            str(r.window_n),
            f"{statistics.get('novelty_rate', float('nan')):.3f}",
            f"{statistics.get('total_variation', float('nan')):.3f}",
            "yes" if r.alarm else "",
        )
    console.print(table)


@app.command()
@friendly
def acknowledge(name: Name, data_dir: DataDir = None) -> None:
    """Clear a latched alarm; a running service follows within a second."""
    from registry import readings, versions

    with opened(data_dir) as (_, registry), registry.writing() as session:
        versions.get_adapter(session, name)
        state = readings.get_state(session, name)
        standing = state is not None and state.alarm_active
        if standing:
            readings.acknowledge(session, name, by="cli")
    console.print(f"The alarm of [bold]{name}[/bold] is acknowledged" if standing else f"{name} has no alarm")
