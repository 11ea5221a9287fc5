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
    retain_texts: Annotated[
        int | None,
        typer.Option(help="Days for which texts sent with it are kept, for examples and labels [default: none are]."),
    ] = None,
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
    _check(retain_texts, keys.MAX_RETAIN_DAYS, least=1)
    with opened(data_dir) as (_, registry), registry.writing() as session:
        key, secret = keys.issue(session, name, scopes, expires, retain_days=retain_texts, by="cli")
    if as_json:
        print_json(
            {
                "id": key.id, "name": key.name, "scopes": sorted(key.scopes), "expires_at": expires,
                "retain_texts_days": key.retain_days, "secret": secret,
            }
        )  # fmt: skip
        return
    kept = f", whose texts are kept for {key.retain_days} days" if key.retain_days else ""
    console.print(f"Key {key.id} ({', '.join(sorted(key.scopes))}){kept}, shown once:")
    typer.echo(secret)


@app.command()
def generate() -> None:
    """Print a fresh secret that is no key yet: for a secret store, from where `driftline prepare` registers it."""
    from registry import keys

    typer.echo(keys.new_secret())


@app.command()
@friendly
def retain(
    key_id: Annotated[str, typer.Argument(help="Id of the key.")],
    days: Annotated[int, typer.Option(help="Days for which texts sent with it are kept; 0 ends it.", min=0)],
    data_dir: DataDir = None,
) -> None:
    """Keep texts sent with a key for some days, or no longer; with 0 those that are kept are deleted too."""
    from registry import keys, retained

    _check(days, keys.MAX_RETAIN_DAYS, least=0)
    with opened(data_dir) as (_, registry):
        with registry.writing() as session:
            keys.retain(session, key_id, days or None, by="cli")
            deleted = 0 if days else retained.purge(session, key=key_id, by="cli")
        if not days:
            registry.database.scrub(retained.TABLE)
    said = f"are kept for {days} days from now on" if days else f"are not kept any more; {deleted} were deleted"
    console.print(f"Texts sent with key {key_id} {said}")


def _check(days: int | None, longest: int, *, least: int) -> None:
    if days is not None and not least <= days <= longest:
        raise fail(f"texts are kept for {least} to {longest} days", 2)


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
                 "expires_at": k.expires_at, "revoked_at": k.revoked_at, "last_used_at": k.last_used_at,
                 "retain_texts_days": k.retain_days}
                for k in found
            ]
        )  # fmt: skip
        return
    table = Table("id", "name", "scopes", "ends in", "state", "texts")
    for key in found:
        state = "revoked" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "valid"
        texts = f"kept {key.retain_days} days" if key.retain_days else "not kept"
        table.add_row(key.id, key.name, ", ".join(sorted(key.scopes)), key.last4, state, texts)
    console.print(table)


@app.command()
@friendly
def limit(
    key_id: Annotated[str, typer.Argument(help="Id of the key.")],
    texts_per_minute: Annotated[int | None, typer.Option(help="In each service [default: no limit].", min=1)] = None,
    texts_per_day: Annotated[int | None, typer.Option(help="Of all services [default: no limit].", min=1)] = None,
    data_dir: DataDir = None,
) -> None:
    """Set how many texts a key may send; running services follow within a minute."""
    from registry import quotas

    try:
        limits = quotas.KeyLimits(texts_per_minute, texts_per_day)
    except ValueError as error:
        raise fail(str(error), 2) from None
    with opened(data_dir) as (_, registry), registry.writing() as session:
        quotas.limit(session, key_id, limits, by="cli")
    rates = ((texts_per_minute, "a minute"), (texts_per_day, "a day"))
    said = " and ".join(f"{most} texts {span}" for most, span in rates if most is not None)
    console.print(f"Key {key_id} may send {said or 'any number of texts'}")


@app.command()
@friendly
def revoke(key_id: Annotated[str, typer.Argument(help="Id of the key.")], data_dir: DataDir = None) -> None:
    """Revoke a key; a running service refuses it within a second."""
    from registry import keys

    with opened(data_dir) as (_, registry), registry.writing() as session:
        keys.revoke(session, key_id, by="cli")
    console.print(f"Key {key_id} is revoked")
