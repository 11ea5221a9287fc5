"""`driftline rollout`: serve a candidate in shadow or to a share of the callers, and see what comes of it."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from monitoring.rollouts import Standing

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the adapter.")]


@app.command()
@friendly
def start(
    version: Annotated[str, typer.Argument(help="Version to serve beside the live one, such as banking@3.")],
    mode: Annotated[str, typer.Option(help="shadow: nobody sees it; canary: it answers a share of the callers.")] = (
        "shadow"
    ),
    share: Annotated[float | None, typer.Option(help="Of a canary: share of the callers, in (0, 1).")] = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="A further rule as NAME=VALUE, such as max_error_rate=0.02; repeatable.")
    ] = None,
    min_observations: Annotated[int | None, typer.Option(help="Compared requests that each stage needs.")] = None,
    max_disagreement: Annotated[float | None, typer.Option(help="Most disagreement of the nearest items.")] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Leave the promotion to a person.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also when the gate rejected it.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Begin a rollout; a running service follows within a second."""
    from monitoring.rollout_rules import Rules
    from monitoring.rollouts import latest
    from registry import rollouts
    from registry.names import parse_model

    name, number = parse_model(version)
    if number is None:
        raise fail(f"which version? give {name}@NUMBER; `driftline adapter show {name}` lists them", 2)
    given = {
        "share": share,
        "min_observations": min_observations,
        "max_disagreement": max_disagreement,
        "on_success": "hold" if hold else None,
    }
    asked: dict[str, Any] = {"mode": mode} | dict(_rule(one) for one in rule or [])
    checked = Rules.from_mapping(asked | {rule: value for rule, value in given.items() if value is not None})
    with opened(data_dir) as (_, registry):
        with registry.writing() as session:
            rollouts.start(session, name, number, rules=checked.to_dict(), by="cli", force=force)
        _show(latest(registry, name), as_json)


@app.command()
@friendly
def status(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The newest rollout of an adapter: state, what was measured, and what is missing."""
    from monitoring.rollouts import latest

    with opened(data_dir) as (_, registry):
        _show(latest(registry, name), as_json)


@app.command()
@friendly
def stop(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "stopped by hand",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End the active rollout; the live version stays."""
    from monitoring.rollouts import latest
    from registry import rollouts

    with opened(data_dir) as (_, registry):
        with registry.writing() as session:
            found = rollouts.active(session, name)
            if found is None:
                raise fail(f"{name} has no active rollout")
            rollouts.stop(session, found.id, reason, by="cli")
        _show(latest(registry, name), as_json)


def _rule(given: str) -> tuple[str, Any]:
    """A rule and its value, which is read as JSON where it is some, else as the word it is."""
    name, equals, value = given.partition("=")
    if not equals:
        raise fail("a rule is given as NAME=VALUE, such as max_error_rate=0.02", 2)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _show(standing: "Standing", as_json: bool) -> None:
    shown = standing.to_json()
    if as_json:
        print_json(shown)
        return
    share = f", {shown['share']:.0%} of callers" if shown["share"] else ""
    console.print(
        f"[bold]{shown['version']}[/bold] beside {shown['champion']}: {shown['mode']}{share}, "
        f"[bold]{shown['state']}[/bold], {shown['counts']['observations']} requests compared"
    )
    if shown["reason"]:
        console.print(shown["reason"], markup=False)
    if shown["bounds"]:
        table = Table("measure", "requests", "mean", "lower", "upper", "limit")
        for name, found in shown["bounds"].items():
            limit = "" if found["limit"] is None else f"{found['limit']:g}"
            table.add_row(
                name, str(found["n"]), f"{found['mean']:.4f}", f"{found['lower']:.4f}", f"{found['upper']:.4f}", limit
            )
        console.print(table)
    if not standing.rollout.state.finished:
        for missing in shown["missing"]:
            console.print(f"missing: {missing}", markup=False)
        if shown["held_by"]:
            console.print(f"will not be promoted by itself: {shown['held_by']}", markup=False)
