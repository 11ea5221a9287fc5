"""`driftline job`: list, show, watch and cancel retrain jobs."""

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json
from registry.registry import Registry

app = typer.Typer(no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="Id of the job, as `driftline retrain` printed it.")]
FINISHED = {"succeeded", "failed", "cancelled"}


@app.command("list")
@friendly
def list_(
    adapter: Annotated[str | None, typer.Option(help="Only this adapter's.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    from registry import jobs

    with opened(data_dir) as (_, registry), registry.reading() as session:
        found = jobs.all(session, adapter)
    if as_json:
        print_json([job_json(job) for job in found])
        return
    whole = (Column("job", no_wrap=True), "adapter", "dataset", Column("state", no_wrap=True))
    table = Table(*whole, "step", "verdict", "version", "asked")
    for job in found:
        table.add_row(
            job.id,
            job.adapter,
            f"{job.dataset}@{job.revision}",
            job.state,
            job.step or "",
            (job.verdict or {}).get("outcome", ""),
            str(job.version or ""),
            f"{job.created_at:%Y-%m-%d %H:%M}",
        )
    console.print(table)


@app.command()
@friendly
def show(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One job with its metrics and verdict."""
    from registry import jobs

    with opened(data_dir) as (_, registry), registry.reading() as session:
        job = jobs.get(session, job_id)
    if as_json:
        print_json(job_json(job))
    else:
        show_job(job)


@app.command()
@friendly
def watch(job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Follow a job to its end; exit status 1 unless it succeeded."""
    with opened(data_dir) as (_, registry):
        job = follow(registry, job_id, quiet=as_json)
    if as_json:
        print_json(job_json(job))
    else:
        show_job(job)
    if job.state != "succeeded":
        raise typer.Exit(1)


@app.command()
@friendly
def cancel(job_id: JobId, data_dir: DataDir = None) -> None:
    """Ask a job to stop; a running fit stops within seconds."""
    from registry import jobs

    with opened(data_dir) as (_, registry), registry.writing() as session:
        job = jobs.request_cancel(session, job_id, by="cli")
    console.print(f"{job.id}: {job.state}, cancel asked")


def follow(
    registry: Registry, job_id: str, *, quiet: bool = False, lost: Callable[[], str | None] = lambda: None
) -> Any:
    """Poll a job until it is finished, with a progress bar unless quiet; returns the finished job.

    `lost` says why nobody will finish it, None while somebody may. Raises typer.Exit with its words.
    """
    from registry import jobs

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task("waiting for a worker", total=1.0)
        while True:
            # Asked before the look: what the worker did last is seen.
            why = lost()
            with registry.reading() as session:
                job = jobs.get(session, job_id)
            bar.update(task, description=job.step or job.state, completed=job.progress)
            if job.state in FINISHED:
                return job
            if why is not None:
                raise fail(why)
            time.sleep(0.25)


def job_json(job: Any) -> dict[str, Any]:
    """A job as the API gives it."""
    names = (
        "id", "adapter", "dataset", "revision", "recipe", "state", "step", "progress", "metrics", "verdict", "version",
        "error", "requested_by", "reason", "attempts", "created_at", "started_at", "finished_at",
    )  # fmt: skip
    return {name: getattr(job, name) for name in names}


def show_job(job: Any) -> None:
    """Print a job: its end in a line, then the verdict's reasons."""
    colour = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}.get(job.state, "blue")
    seconds = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    what = f"{job.id} for [bold]{job.adapter}[/bold] on {job.dataset}@{job.revision}"
    console.print(f"{what}: [{colour}]{job.state}[/{colour}]{took}")
    if job.error:
        console.print(f"  {job.error}", markup=False, soft_wrap=True)
    if job.verdict:
        version = f", version {job.adapter}@{job.version}" if job.version else ""
        console.print(f"  verdict: [bold]{job.verdict['outcome']}[/bold]{version}")
        for reason in job.verdict.get("reasons", []):
            mark = "[green]+[/green]" if reason.get("ok") else "[red]-[/red]"
            console.print(f"  {mark}", end=" ")
            console.print(reason["text"], markup=False, soft_wrap=True)
