"""`driftline gc`: delete artifacts that nothing names any more."""

import re
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Table

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json

SHOWN = 20
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@friendly
def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Delete it; without this it is only listed.")] = False,
    older_than: Annotated[
        str, typer.Option(help="Leave alone what was stored within this time, such as 12h, 7d or 4w; at least 1h.")
    ] = "7d",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Artifacts that no version, backbone, dataset, reference, report or job names; lists them unless told to delete.

    Services and workers may run meanwhile: what is being published is young, and is left alone."""
    from registry import garbage

    grace = _span(older_than)
    if grace < garbage.LEAST_GRACE:
        raise fail("the grace time must be at least 1h: what is being published is named by nothing yet", 2)
    with opened(data_dir) as (_, registry):
        found = garbage.collect(registry, older_than=grace, apply=apply, by="cli")
    if as_json:
        print_json(found.to_json())
        return
    table = Table("artifact", "bytes", "stored")
    for each in found.to_json()["garbage"][:SHOWN]:
        table.add_row(each["digest"], str(each["bytes"]), f"{each['stored_at']:%Y-%m-%d %H:%M}")
    if found.garbage:
        console.print(table)
    if len(found.garbage) > SHOWN:
        console.print(f"and {len(found.garbage) - SHOWN} more")
    size = sum(each.size for each in found.garbage)
    console.print(
        f"{len(found.garbage)} artifacts ({size / 1e6:.1f} MB) are named by nothing; {found.named} are named, "
        f"{found.young} are too young to tell"
    )
    if apply:
        console.print(f"{len(found.deleted)} were deleted")
    elif found.garbage:
        console.print("Nothing was deleted; --apply deletes them")


def _span(words: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", words)
    if match is None:
        raise fail("a time is a number with h, d or w, such as 7d", 2)
    return int(match[1]) * _UNITS[match[2]]
