"""What every command shares: the --data-dir and --json options, the console, and how a domain error is shown."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from encoder.errors import EncoderError
from monitoring.errors import MonitoringError
from registry.errors import DatasetRefused, RegistryError
from registry.home import Home
from registry.registry import Registry
from training.errors import TrainingError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="DRIFTLINE_DATA_DIR",
        help="Where Driftline keeps its registry and artifacts [default: ~/.local/share/driftline].",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def opened(data_dir: Path | None) -> Iterator[tuple[Home, Registry]]:
    """The home and its registry, migrated and closed afterwards."""
    home = Home.at(data_dir)
    registry = home.registry()
    try:
        yield home, registry
    finally:
        registry.close()


def print_json(document: Any) -> None:
    """One JSON document on standard output, dates as ISO 8601."""
    typer.echo(json.dumps(document, indent=2, default=str, ensure_ascii=False))


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print an error in one place and shape; the caller raises what this returns."""
    errors.print("[red]error:[/red]", end=" ")
    errors.print(message, markup=False, soft_wrap=True)
    return typer.Exit(code)


def friendly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a domain error into its message and exit status 1; a bug still shows its traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except DatasetRefused as error:
            for problem in error.problems[:20]:
                errors.print(f"  {problem}", markup=False, soft_wrap=True)
            raise fail(str(error)) from None
        except (RegistryError, EncoderError, MonitoringError, TrainingError) as error:
            raise fail(str(error)) from None

    return run
