"""`driftline backbone`: import pretrained encoders as ONNX, export them as folders, list what is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from encoder.manifest import BackboneManifest, Store

app = typer.Typer(no_args_is_help=True)


@app.command("import")
@friendly
def import_(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A local sentence-transformers folder, one of `backbone export`, or a hub id; left out, the packaged "
            "all-MiniLM-L6-v2.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name to serve it under.")] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing when a backbone exists.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Export a pretrained encoder to one ONNX graph, prove parity with torch, and publish it."""
    from cli.backbone_folder import is_backbone_folder, read_backbone
    from registry import backbones

    with opened(data_dir) as (home, registry):
        with registry.reading() as session:
            present = backbones.default(session)
        if if_missing and present is not None:
            return
        if source is not None and is_backbone_folder(Path(source)):
            if name is not None:
                raise fail("an exported backbone keeps its name: it is part of the manifest", 2)
            manifest = read_backbone(Path(source), registry.store)
        else:
            manifest = _export(source, registry.store, name)
        with registry.writing() as session:
            backbone = backbones.add(session, manifest.to_dict(), manifest.digest, by="cli")
    if as_json:
        print_json({"name": backbone.name, "digest": manifest.digest, **manifest.to_dict()})
        return
    parity = manifest.parity
    console.print(
        f"Imported [bold]{backbone.name}[/bold] ({manifest.dimension} dimensions, {manifest.max_tokens} tokens, "
        f"{manifest.pooling} pooling) into {home.data_dir}\n"
        f"Parity with torch on {parity.texts} texts: largest difference {parity.max_abs_difference:.1e}, "
        f"smallest cosine {parity.min_cosine:.7f}",
        soft_wrap=True,
    )


def _export(source: str | None, store: "Store", name: str | None) -> "BackboneManifest":
    from training.export import import_backbone

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("reading the model", total=1.0)
        return import_backbone(
            source,
            store,
            name=name,
            progress=lambda step, fraction: bar.update(task, description=step, completed=fraction),
        )


@app.command()
@friendly
def export(
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    name: Annotated[str | None, typer.Option(help="Which backbone [default: the first].", show_default=False)] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a backbone as a folder that `backbone import` and `prepare` read without torch."""
    from cli.backbone_folder import write_backbone
    from registry import backbones

    if folder.exists():
        raise fail(f"{folder} exists")
    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            found = next((b for b in backbones.all(session) if name in (None, b.name)), None)
        if found is None:
            raise fail("there is no such backbone; `driftline backbone list` shows those there are")
        write_backbone(folder, found.digest, registry.fetch)
    console.print(f"Wrote [bold]{found.name}[/bold] to {folder}", soft_wrap=True)


@app.command("list")
@friendly
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The imported backbones; the first is the default."""
    from registry import backbones

    with opened(data_dir) as (_, registry), registry.reading() as session:
        found = backbones.all(session)
    if as_json:
        print_json([{"name": b.name, "digest": b.digest, "dimension": b.dimension, "source": b.source} for b in found])
        return
    table = Table("name", "dimension", "max tokens", "source", "digest")
    for backbone in found:
        table.add_row(
            backbone.name, str(backbone.dimension), str(backbone.max_tokens), backbone.source, backbone.digest[:12]
        )
    console.print(table)
