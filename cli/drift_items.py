"""`driftline drift informative` and `driftline drift purge`: kept texts, to label next or to delete."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `driftline drift`."""
    app.command()(informative)
    app.command()(purge)


@friendly
def informative(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    limit: Annotated[int, typer.Option(help="How many texts.", min=1, max=1000)] = 50,
    output: Annotated[
        Path | None, typer.Option(help="Write a dataset there, .csv or .jsonl, instead of printing.", dir_okay=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Kept texts to label next, with reasons: unlike what was fitted, like many that are sent, unlike each other."""
    from service import items

    writers = {".csv": items.as_csv, ".jsonl": items.as_jsonl}
    if output is not None and output.suffix not in writers:
        raise fail("the file's name must end in .csv or .jsonl", 2)
    found = _to_label(name, limit, data_dir)
    if as_json:
        print_json(found)
        return
    if not found:
        raise fail(items.NONE_KEPT)
    if output is not None:
        output.write_bytes(writers[output.suffix](found))
        console.print(
            f"{len(found)} texts are in {output}; add a column label, then driftline dataset add", markup=False
        )
        return
    for item in found:
        console.print(f"{item['rank']:>4}  {item['text']}", markup=False, soft_wrap=True)
        console.print(f"      [dim]{item['why']}[/dim]", soft_wrap=True)


@friendly
def purge(
    name: Annotated[str | None, typer.Argument(help="Name of the adapter; every one by default.")] = None,
    key: Annotated[str | None, typer.Option(help="Only texts sent with this key, by its id.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Delete kept texts of an adapter, of a key, or of both; a dataset made of them stays."""
    from registry import retained

    if not name and not key:
        raise fail("name an adapter, or a key with --key", 2)
    with opened(data_dir) as (_, registry):
        with registry.writing() as session:
            deleted = retained.purge(session, adapter=name, key=key, by="cli")
        registry.database.scrub(retained.TABLE)
    console.print(f"{deleted} kept texts are deleted")


def _to_label(name: str, limit: int, data_dir: Path | None) -> list[dict[str, Any]]:
    from monitoring.reference import Reference
    from registry import versions
    from service import items

    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            versions.get_adapter(session, name)
            live = versions.live(session, name)
        if live is None or live.reference is None:
            raise fail(f"{name} has no live version with a reference")
        reference = Reference.from_bytes(registry.fetch(live.reference))
        return items.to_label(reference, items.kept(registry, name, live.number, reference.dimension), limit)
