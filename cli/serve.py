"""`driftline serve` and `driftline worker`: the two long-running programs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.common import DataDir, console, errors, fail, friendly
from registry.home import Home


@friendly
def serve(
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; beyond loopback an API key must exist.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind.", min=0, max=65535)] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Do not start the retrain worker beside it.")] = False,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut over-long texts instead of refusing them.")] = False,
) -> None:
    """Serve embeddings and the admin API; every DRIFTLINE_… setting applies, options win."""
    from pydantic import ValidationError

    from service.serve import ServeRefused, run
    from service.settings import Settings

    options = {"data_dir": data_dir, "host": host, "port": port}
    given: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    if no_worker:
        given["worker"] = False
    if truncate:
        given["truncate"] = True
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        for problem in error.errors():
            errors.print(f"  DRIFTLINE_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}", markup=False)
        raise fail("a setting is wrong; docs/settings.md lists them", 2) from None
    try:
        run(settings, on_listening=lambda address: console.print(f"Serving on {address}  (Ctrl-C stops)"))
    except ServeRefused as error:
        raise fail(str(error)) from None


def worker(data_dir: DataDir = None) -> None:
    """Run retrain jobs until stopped; `serve` starts one by itself unless told not to."""
    home = Home.at(data_dir)
    arguments = worker_command(home.data_dir)
    try:
        os.execv(arguments[0], arguments)
    except OSError as error:
        raise fail(f"the worker could not be started: {error.strerror}") from None


def worker_command(data_dir: Path) -> list[str]:
    """Command line of the worker program for one home."""
    return [sys.executable, "-m", "training", "worker", "--data-dir", str(data_dir)]
