"""`driftline dataset`: add a dataset, and read the report on its quality."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json

app = typer.Typer(no_args_is_help=True)
SHOWN = 5
"""Examples printed of each finding; the JSON has more."""


@app.command()
@friendly
def add(
    name: Annotated[str, typer.Argument(help="Name of the dataset; a second upload becomes its next revision.")],
    file: Annotated[Path, typer.Argument(help="CSV or JSONL.", exists=True, dir_okay=False, readable=True)],
    format_: Annotated[str | None, typer.Option("--format", help="csv or jsonl [default: by the ending].")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check a file row by row and store it as an immutable revision; nothing is stored when a row is bad."""
    from registry import datasets
    from registry.rows import sniff_format

    chosen = format_ or sniff_format(file.name)
    if chosen not in ("csv", "jsonl"):
        raise fail("the format cannot be told from the file's name; give --format csv or --format jsonl", 2)
    with opened(data_dir) as (_, registry), registry.writing() as session:
        revision = datasets.add(session, registry.artifacts, name, file.read_bytes(), chosen, by="cli")
    show_revision(revision, as_json)


@app.command("list")
@friendly
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every dataset revision."""
    from registry import datasets

    with opened(data_dir) as (_, registry), registry.reading() as session:
        found = datasets.all(session)
    if as_json:
        print_json([revision_json(revision) for revision in found])
        return
    table = Table("dataset", "revision", "kind", "rows", "labels", "added", "digest")
    for r in found:
        table.add_row(
            r.name, str(r.revision), r.kind, str(r.rows), str(r.labels), f"{r.created_at:%Y-%m-%d %H:%M}", r.digest[:12]
        )
    console.print(table)


@app.command()
@friendly
def show(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    revision: Annotated[int | None, typer.Option(help="Revision [default: the newest].")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """One revision with its quality report."""
    from registry import datasets

    with opened(data_dir) as (_, registry), registry.reading() as session:
        found = datasets.get(session, name, revision)
    show_revision(found, as_json)


def revision_json(revision: Any) -> dict[str, Any]:
    """A dataset revision as the API gives it."""
    return {
        "name": revision.name,
        "revision": revision.revision,
        "digest": revision.digest,
        "kind": revision.kind,
        "rows": revision.rows,
        "labels": revision.labels,
        "created_at": revision.created_at,
        "report": revision.report,
    }


def show_revision(revision: Any, as_json: bool) -> None:
    """Print a revision: its size in a line, then each warning of the report, then where its findings are."""
    if as_json:
        print_json(revision_json(revision))
        return
    labels = f", {revision.labels} labels" if revision.labels else ""
    size = f"{revision.rows} {revision.kind} rows{labels}"
    console.print(f"Dataset [bold]{revision.name}[/bold] revision {revision.revision}: {size}")
    for warning in revision.report.get("warnings", []):
        console.print("  [yellow]![/yellow]", end=" ")
        console.print(str(warning), markup=False, soft_wrap=True)
    for line in findings(revision.report):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def findings(report: Mapping[str, Any]) -> list[str]:
    """A line for each kind of finding: row numbers of the first ones, then how many more there are; never a text."""
    conflicts, between = report["conflicts"], report["splits"]["near_duplicates_between"]
    kinds = (
        ("repeated word for word", report["duplicates"]["groups"], report["duplicates"]["examples"]),
        ("the same text under two labels", conflicts["count"], [clash["rows"] for clash in conflicts["examples"]]),
        ("near-duplicates in different splits", between["count"], between["pairs"]),
    )
    return [f"{what}: {_places(count, examples)}" for what, count, examples in kinds if count]


def _places(count: int, examples: Sequence[Sequence[int]]) -> str:
    shown = [f"rows {', '.join(map(str, rows[:SHOWN]))}{', …' * (len(rows) > SHOWN)}" for rows in examples[:SHOWN]]
    more = f"; and {count - len(shown)} more" if count > len(shown) else ""
    return "; ".join(shown) + more
