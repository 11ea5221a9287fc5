"""`driftline retrain`: queue a refit, and follow it when asked to."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.common import AsJson, DataDir, console, errors, friendly, opened, print_json
from cli.job import follow, job_json, show_job
from cli.serve import worker_command
from registry.home import Home
from registry.lock import held

ABSENT_S = 30.0
"""Seconds without any worker after which the one who waits is told."""
_LOOK_S = 1.0


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
                follow_it = f"Queued [bold]{job.id}[/bold]; follow it with: driftline job watch {job.id}"
                console.print(follow_it, soft_wrap=True)
                if not held(home.worker_lock):
                    errors.print("No worker runs on this data directory now; `driftline serve` starts one.")
            return
        with worker_if_none(home) as lost:
            job = follow(registry, job.id, quiet=as_json, lost=lost)
    if as_json:
        print_json(job_json(job))
    else:
        show_job(job)
    if job.state != "succeeded":
        raise typer.Exit(1)


@contextmanager
def worker_if_none(home: Home) -> Iterator[Callable[[], str | None]]:
    """Run a worker of our own while waiting, when no other holds this home; it ends with this process in any case.

    Gives what `follow` asks: why nobody will finish the job, None while somebody may.
    """
    foreign = ForeignWorker(home)

    def waited() -> str | None:
        foreign.look()
        return None

    if held(home.worker_lock):
        yield waited
        return
    log_path = home.data_dir / "worker.log"
    errors.print(f"No worker is running for this data directory; one runs until this job is done (log: {log_path}).")
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*worker_command(home.data_dir), "--leash"], stdin=subprocess.PIPE, stdout=log, stderr=log
        )

    def lost() -> str | None:
        code = process.poll()
        if code is None:
            return None
        if held(home.worker_lock):  # another one was faster, and takes the job
            return waited()
        return f"the worker ended with status {code} before the job was done; its log is {log_path}"

    try:
        yield lost
    finally:
        if process.stdin:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ForeignWorker:
    """Somebody else's worker: it may go and come back, so its absence is told once and waited out."""

    def __init__(self, home: Home, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self._looked = self._seen = clock()
        self._told = False

    def look(self) -> None:
        """Look at most once a second; say so on standard error after `ABSENT_S` without a worker."""
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if held(self._home.worker_lock):
            self._seen = now
            self._told = False
        elif now - self._seen > ABSENT_S and not self._told:
            self._told = True
            errors.print(
                f"No worker has run for {ABSENT_S:.0f} s on {self._home.data_dir}; the job waits until one is started "
                "(driftline worker).",
                markup=False,
                soft_wrap=True,
            )
