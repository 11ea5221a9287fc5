"""`driftline report`: write the stored report of a version, or its model card, to a file."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json


@friendly
def report(
    version: Annotated[str, typer.Argument(help="Version such as banking@3, or a name for its live version.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write [default: such as banking@3.html]; - for standard output."),
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="The model card (JSON) in place of the page (HTML).")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write what was found when a version was judged: one page that needs nothing else, or a model card.

    The page quotes texts of the dataset; the card does not.
    """
    from registry.names import parse_model
    from registry.version_reports import Document, fetch_document

    name, number = parse_model(version)
    document = Document.CARD if card else Document.REPORT
    with opened(data_dir) as (_, registry):
        found = fetch_document(registry, name, number, document)
    path = out or Path(f"{found.version.name}.{'json' if card else 'html'}")
    if str(path) == "-":
        typer.echo(found.data, nl=False)
        return
    if path.exists() and not overwrite:
        raise fail(f"{path} exists; --overwrite replaces it")
    try:
        path.write_bytes(found.data)
    except OSError as error:
        raise fail(f"{path} cannot be written: {error.strerror}") from None
    if as_json:
        told = {"version": found.version.name, "document": document.value, "digest": found.digest}
        print_json({**told, "bytes": len(found.data), "out": str(path)})
        return
    console.print(f"Wrote the {document.value} of [bold]{found.version.name}[/bold] to {path}", soft_wrap=True)
