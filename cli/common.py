"""What every command shares: the --data-dir and --json options, the console, and how a domain error is shown."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
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

# Without a terminal there is no width to keep to: ids in a table must come through a pipe whole.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
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

SHOWN_PROBLEMS = 20

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
    typer.echo(json.dumps(document, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


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
            if error.total == 1:
                raise fail(str(error)) from None
            for problem in error.problems[:SHOWN_PROBLEMS]:
                errors.print(f"  {problem}", markup=False, soft_wrap=True)
            raise fail(f"the dataset was refused: {error.total} problems, nothing was stored") from None
        except (RegistryError, EncoderError, MonitoringError, TrainingError) as error:
            raise fail(str(error)) from None

    return run
