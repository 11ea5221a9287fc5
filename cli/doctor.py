"""`driftline doctor`: look at everything a service and a worker need, and say what to do next."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cli.common import AsJson, DataDir, console, print_json
from cli.doctor_check import Check, State, guarded
from registry.home import Home

if TYPE_CHECKING:
    from service.settings import Settings

_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.PROBLEM: "red"}


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every artifact and the whole database file for damage.")
    ] = False,
    no_model: Annotated[bool, typer.Option("--no-model", help="Do not load the default backbone.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check the program, its settings, home, database, stores, keys, model, worker and jobs; change nothing.

    Exit status 1 where there is a problem. It works before the first start and while the database is away."""
    found = examine(data_dir, deep=deep, model=not no_model)
    worst = State.PROBLEM if any(check.state is State.PROBLEM for check in found) else State.OK
    if as_json:
        print_json({"state": worst.value, "checks": [asdict(check) for check in found]})
    else:
        _show(found)
    if worst is State.PROBLEM:
        raise typer.Exit(1)


def examine(data_dir: Path | None, *, deep: bool = False, model: bool = True) -> list[Check]:
    """Every check, in the order in which things depend on each other."""
    from cli import doctor_home, doctor_model, doctor_program, doctor_registry

    settings, faults = _settings(data_dir)
    home = Home.at(data_dir)
    looks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("python", doctor_program.python),
        ("libraries", doctor_program.libraries),
        ("settings", lambda: doctor_program.settings(settings, faults, os.environ)),
        ("data folder", lambda: doctor_home.folder(home)),
        ("disk", lambda: doctor_home.disk(home)),
        ("database", lambda: doctor_registry.registry(home, settings, deep=deep)),
        ("object store", lambda: doctor_home.object_store(home)),
        ("shared cache", lambda: doctor_home.cache(settings)),
        ("runtime", lambda: doctor_model.runtime(home, settings, run=model)),
    )
    return [check for name, look in looks for check in guarded(name, look)]


def _settings(data_dir: Path | None) -> tuple["Settings | None", list[str]]:
    """The service's settings; None with what is wrong, without the values, where they are not valid."""
    from pydantic import ValidationError

    from service.settings import Settings

    given: dict[str, object] = {} if data_dir is None else {"data_dir": data_dir}
    try:
        return Settings(**given), []  # type: ignore[arg-type]
    except ValidationError as error:
        return None, [f"DRIFTLINE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]


def _show(found: list[Check]) -> None:
    table = Table("check", "state", "seen", "next", show_lines=False)
    for check in found:
        state = Text(check.state.value, style=_COLOURS[check.state])
        table.add_row(check.name, state, Text(check.seen), Text(check.next))
    console.print(table)
    counts = {state: sum(check.state is state for check in found) for state in State}
    console.print(f"{counts[State.PROBLEM]} problems, {counts[State.WARNING]} warnings, {counts[State.OK]} ok")
