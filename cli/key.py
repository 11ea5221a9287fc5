"""`driftline key`: API keys and their scopes."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json

app = typer.Typer(no_args_is_help=True)


@app.command()
@friendly
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option(help="embed, read, train or admin; repeat for several.")],
    days: Annotated[int | None, typer.Option(help="Days until it expires [default: never].", min=1)] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key. It is shown this once; only its digest is stored."""
    from registry import keys

    try:
        scopes = frozenset(keys.Scope(given) for given in scope)
    except ValueError:
        raise fail(f"scopes are {', '.join(keys.Scope)}", 2) from None
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    with opened(data_dir) as (_, registry), registry.writing() as session:
        key, secret = keys.issue(session, name, scopes, expires)
    if as_json:
        print_json(
            {"id": key.id, "name": key.name, "scopes": sorted(key.scopes), "expires_at": expires, "secret": secret}
        )
        return
    console.print(f"Key {key.id} ({', '.join(sorted(key.scopes))}), shown once:")
    typer.echo(secret)


@app.command("list")
@friendly
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every key, without its secret."""
    from registry import keys

    with opened(data_dir) as (_, registry), registry.reading() as session:
        found = keys.all(session)
    if as_json:
        print_json(
            [
                {"id": k.id, "name": k.name, "scopes": sorted(k.scopes), "last4": k.last4, "created_at": k.created_at,
                 "expires_at": k.expires_at, "revoked_at": k.revoked_at, "last_used_at": k.last_used_at}
                for k in found
            ]
        )  # fmt: skip
        return
    table = Table("id", "name", "scopes", "ends in", "state")
    for key in found:
        state = "revoked" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "valid"
        table.add_row(key.id, key.name, ", ".join(sorted(key.scopes)), key.last4, state)
    console.print(table)


@app.command()
@friendly
def revoke(key_id: Annotated[str, typer.Argument(help="Id of the key.")], data_dir: DataDir = None) -> None:
    """Revoke a key; a running service refuses it within a second."""
    from registry import keys

    with opened(data_dir) as (_, registry), registry.writing() as session:
        keys.revoke(session, key_id)
    console.print(f"Key {key_id} is revoked")
