"""`driftline reproject`: a file of stored base vectors moves to another head version, without encoding a text."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json
from cli.embed import shown


@friendly
def reproject(
    file: Annotated[Path, typer.Argument(help="A file that `driftline embed` wrote.", exists=True, dir_okay=False)],
    model: Annotated[str, typer.Option("--model", help="Head version, such as banking@8; a name means its live one.")],
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    base: Annotated[bool, typer.Option("--base/--no-base", help="Keep the base vectors in the new file.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Apply a head version to the base vectors of a file, so that an index moves to it without re-encoding."""
    from encoder.bulk.errors import need_pyarrow

    need_pyarrow()
    from cli.models import find
    from encoder.adapters import Head
    from encoder.bulk.reproject import reproject_file

    with opened(data_dir) as (_, registry):
        meant = find(registry, model)
        if meant.kind == "lora":
            raise fail(
                f"{meant.name} is a LoRA version: it acts inside the backbone, so base vectors do not help; "
                "encode the texts again with: driftline embed"
            )
        if meant.version is None:
            raise fail(f"{meant.name} is a backbone; name a head version, such as banking@8")
        head = Head.open(meant.version, registry.fetch)
    with shown() as watch:
        done = reproject_file(file, out, head, meant.name, base=base, overwrite=overwrite, watch=watch)
    rate = done.rows / done.seconds
    if as_json:
        document = {
            "out": str(done.out),
            "rows": done.rows,
            "seconds": round(done.seconds, 3),
            "rows_per_second": round(rate, 1),
            "from": done.before.model,
            "model": done.origin.model,
            "version": done.origin.version,
            "backbone": done.origin.backbone,
            "precision": done.origin.precision,
            "base": done.origin.base,
        }
        print_json(document)
        return
    console.print(
        f"Moved {done.rows:,} rows from {done.before.model} to [bold]{done.origin.model}[/bold] "
        f"in {done.seconds:.1f} s, {rate:,.0f} rows a second: {done.out}",
        soft_wrap=True,
    )
