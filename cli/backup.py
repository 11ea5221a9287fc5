"""`driftline backup` and `driftline restore`: the registry and its artifacts, in one folder or file."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.common import AsJson, DataDir, console, errors, friendly, opened, print_json
from registry.home import Home

_COLUMNS = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())


@friendly
def backup(
    target: Annotated[Path, typer.Argument(help="Folder to write, or a file that ends in .tar; it must not exist.")],
    with_texts: Annotated[
        bool, typer.Option("--with-texts", help="Also the texts kept of callers whose key allows it.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out artifacts that are missing or damaged, and name them.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a consistent backup of the registry and its artifacts; services and workers may go on meanwhile.

    Store it as you would the original: it holds datasets and the digests of API keys."""
    from registry import backup as backups

    with (
        opened(data_dir) as (_, registry),
        Progress(*_COLUMNS, console=errors, transient=True) as bar,
    ):
        task = bar.add_task("copying artifacts", total=None)
        made = backups.make(
            registry,
            target.absolute(),
            texts=with_texts,
            damaged=keep_going,
            tell=lambda done, of: bar.update(task, completed=done, total=of),
        )
    if as_json:
        told: dict[str, Any] = {"backup": str(target), "sha256": made.digest, "schema": made.schema, "rows": made.rows}
        print_json(told | {"artifacts": made.artifacts, "bytes": made.bytes, "missing": made.missing})
    else:
        console.print(
            f"{sum(made.rows.values())} rows of schema {made.schema} and {made.artifacts} artifacts "
            f"({made.bytes / 1e6:.1f} MB) are in {target}\nsha256 of its manifest: {made.digest}",
            markup=False,
            soft_wrap=True,
        )
        for digest, what in made.missing.items():
            errors.print(f"  missing: {digest}, which {what} needs", markup=False, soft_wrap=True)
    if made.missing:
        raise typer.Exit(1)


@friendly
def restore(
    source: Annotated[Path, typer.Argument(help="A backup: its folder or .tar file.", exists=True)],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Also into a home that is in use on SQLite; its registry is moved aside."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into an empty home, of either database; every digest is verified before anything is written."""
    from registry import restore as restores

    home = Home.at(data_dir)
    with Progress(*_COLUMNS, console=errors, transient=True) as bar:
        tasks = {
            what: bar.add_task(words, total=None) for what, words in (("verify", "verifying"), ("store", "storing"))
        }
        found = restores.restore(
            home,
            source.absolute(),
            replace=replace,
            tell=lambda what, done, of: bar.update(tasks[what], completed=done, total=of),
        )
    if as_json:
        told: dict[str, Any] = {"data_dir": str(home.data_dir), "schema": found.schema, "made_at": found.made_at}
        told |= {"rows": found.rows, "artifacts": found.artifacts, "missing": found.missing}
        print_json(told | {"requeued": found.requeued, "ended": found.failed, "aside": found.aside})
        return
    console.print(
        f"{sum(found.rows.values())} rows and {found.artifacts} artifacts of {found.made_at:%Y-%m-%d %H:%M} UTC are "
        f"restored into {home.data_dir}",
        markup=False,
        soft_wrap=True,
    )
    if found.requeued or found.failed:
        console.print(f"Jobs that ran: {found.requeued} are queued again, {found.failed} were ended")
    if found.aside is not None:
        console.print(f"What was there before is in {found.aside}", markup=False, soft_wrap=True)
    for digest, what in found.missing.items():
        errors.print(f"  missing: {digest}, which {what} needs", markup=False, soft_wrap=True)
