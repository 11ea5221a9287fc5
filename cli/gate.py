"""`driftline gate`: the gate's verdict on any two versions, asked once more."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from training.rejudge import Rejudged, Tell

_COLOURS = {"pass": "green", "fail": "red"}


@friendly
def gate(
    candidate: Annotated[str, typer.Argument(help="Version that is judged, such as banking@3.")],
    rival: Annotated[str, typer.Argument(help="Version it must be better than, such as banking@2, or base.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Judge on this dataset, as name or name@revision, in place of the gate rows of the candidate's own."
        ),
    ] = None,
    unseen: Annotated[
        bool,
        typer.Option(
            "--unseen",
            help="Your word that an import, which does not say what it was fitted on, has seen no row of --dataset.",
        ),
    ] = False,
    provider: Annotated[str, typer.Option(envvar="DRIFTLINE_PROVIDER", help="Execution provider.")] = "auto",
    precision: Annotated[str, typer.Option(envvar="DRIFTLINE_PRECISION", help="Number format.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(envvar="DRIFTLINE_THREADS", help="Threads of the runtime [default: every core].", min=1),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Judge a version against another, or against the bare backbone, on rows that neither was fitted on.

    Exit status 0 when the verdict is pass, 1 when it is fail or inconclusive. The rules are the gate's of the
    candidate's recipe. Nothing is promoted; that these rows were judged on once more is counted, and each further
    verdict on them is given less. Asking the same again counts nothing.

    Of a dataset that is named, half of the labelled rows are judged by the other half; of pairs, four in five.
    """
    from encoder.encoder import Encoder
    from registry import versions
    from registry.names import parse_model
    from training.rejudge import BASE, Question, rejudge

    wanted = _version(candidate)
    other = None if rival == BASE else _version(rival)
    named = None if dataset is None else parse_model(dataset)
    if unseen and named is None:
        raise fail("--unseen goes with --dataset", 2)
    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            judged = versions.get(session, *wanted)
            against = None if other is None else versions.get(session, *other)
        with _progress(quiet=as_json) as tell:
            tell(0.0, "finding the rows")
            question = Question.of(registry, judged, against, dataset=named, unseen=unseen)
            tell(0.0, "loading the backbone")
            backbone = question.candidate.backbone
            encoder = Encoder.open(backbone, registry.fetch, provider=provider, precision=precision, threads=threads)
            found = rejudge(registry, question, encoder, by="cli", tell=tell)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    if not found.verdict.passed:
        raise typer.Exit(1)


def _version(asked: str) -> tuple[str, int]:
    """Name and number. Raises typer.Exit where the number is missing."""
    from registry.names import parse_model

    name, number = parse_model(asked)
    if number is None:
        raise fail(f"which version? give {name}@NUMBER; `driftline adapter show {name}` lists them", 2)
    return name, number


@contextmanager
def _progress(*, quiet: bool) -> Iterator["Tell"]:
    """A bar on standard error, begun anew for each thing that is done."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, words: bar.update(task, description=words, completed=share)


def _show(found: "Rejudged") -> None:
    """The verdict in a line, what it rests on, and its reasons in a table."""
    told = found.to_json()
    outcome, rows, dataset = found.verdict.outcome.value, told["rows"], told["dataset"]
    colour = _COLOURS.get(outcome, "yellow")
    versus = told["rival"] if found.question.rival is None else f"{told['rival']} (the champion below)"
    console.print(f"[bold]{told['candidate']}[/bold] against {versus}: [{colour}]{outcome}[/{colour}]")
    console.print(
        f"  {rows['judged']} rows of {dataset['name']}@{dataset['revision']} judged, {rows['left_out']} left out "
        f"because a version was fitted on them; verdict {told['use']} on these rows",
        soft_wrap=True,
    )
    for name in told["vouched_unseen"]:
        console.print(f"  {name} does not say what it was fitted on; that it has not seen these rows is your word")
    if dataset["kind"] == "unlabelled":
        console.print("  judged without labels or pairs, by finding a text from a careless form of itself")
    if told["laxer_than_default"]:
        fields = ", ".join(told["laxer_than_default"])
        console.print(f"  the recipe's gate is laxer than the default in {fields}", markup=False, soft_wrap=True)
    table = Table("holds", "reason")
    for reason in found.verdict.reasons:
        table.add_row("[green]yes[/green]" if reason.ok else "[red]no[/red]", Text(reason.text))
    console.print(table)
