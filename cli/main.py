"""The `driftline` command: one group a file, each imported only when it is called for."""

import importlib.metadata
from typing import Annotated

import typer

from cli import (
    ablate,
    adapter,
    audit,
    backbone,
    backup,
    dataset,
    demo,
    doctor,
    drift,
    embed,
    gate,
    gc,
    job,
    key,
    prepare,
    report,
    reproject,
    retrain,
    rollout,
    serve,
)

app = typer.Typer(
    name="driftline",
    help="Text embeddings specialised to your domain: served fast, watched for drift, refitted on demand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(importlib.metadata.version("driftline"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before any command."""


app.command()(serve.serve)
app.command()(serve.worker)
app.command()(prepare.prepare)
app.command()(retrain.retrain)
app.command()(ablate.ablate)
app.command()(gate.gate)
app.command()(report.report)
app.command()(embed.embed)
app.command()(reproject.reproject)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(audit.audit)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(gc.gc)
app.add_typer(backbone.app, name="backbone", help="Import pretrained encoders and list them.")
app.add_typer(dataset.app, name="dataset", help="Add datasets and read their quality reports.")
app.add_typer(job.app, name="job", help="List, watch and cancel retrain jobs.")
app.add_typer(adapter.app, name="adapter", help="List versions, promote, roll back, import and export.")
app.add_typer(rollout.app, name="rollout", help="Serve a candidate in shadow or to a share, and see what comes of it.")
app.add_typer(drift.app, name="drift", help="Read drift and acknowledge alarms.")
app.add_typer(key.app, name="key", help="Issue, list and revoke API keys.")


def run() -> None:
    """Entry point of the console script."""
    app()
