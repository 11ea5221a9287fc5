"""`driftline retrain`: queue a refit, and follow it when asked to."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.common import AsJson, DataDir, console, errors, friendly, opened, print_json
from cli.job import follow, job_json, show_job
from cli.serve import worker_command
from registry.home import Home


@friendly
def retrain(
    adapter: Annotated[str, typer.Argument(help="Adapter to refit; it is made on its first refit.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset name, or name@revision.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe as TOML or JSON.", exists=True, dir_okay=False, readable=True)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job; exit status 1 unless it succeeded.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Queue a refit of an adapter on a dataset; the gate decides whether the result goes live."""
    from monitoring.recipe import Recipe
    from registry.names import parse_model
    from registry.requests import request_retrain

    name, revision = parse_model(dataset)
    chosen = Recipe.from_file(recipe) if recipe else Recipe()
    with opened(data_dir) as (home, registry):
        with registry.writing() as session:
            job = request_retrain(
                session, adapter=adapter, dataset=name, revision=revision, recipe=chosen.to_dict(), by="cli"
            )
        if not wait:
            if as_json:
                print_json(job_json(job))
            else:
                console.print(f"Queued [bold]{job.id}[/bold]; follow it with: driftline job watch {job.id}")
            return
        with worker_if_none(home):
            job = follow(registry, job.id, quiet=as_json)
    if as_json:
        print_json(job_json(job))
    else:
        show_job(job)
    if job.state != "succeeded":
        raise typer.Exit(1)


@contextmanager
def worker_if_none(home: Home) -> Iterator[None]:
    """Run a worker of our own while waiting, when no other holds this home; it ends with this process in any case."""
    from registry.lock import held

    if held(home.worker_lock):
        yield
        return
    log_path = home.data_dir / "worker.log"
    errors.print(f"No worker is running for this data directory; one runs until this job is done (log: {log_path}).")
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*worker_command(home.data_dir), "--leash"], stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()
        process.terminate()
        process.wait(timeout=30)
