"""`driftline adapter`: versions of an adapter, and which of them is live."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cli.adapter_files import export, import_
from cli.common import AsJson, DataDir, console, fail, friendly, opened, print_json
from encoder.errors import EncoderError
from monitoring.errors import MonitoringError
from registry.errors import RegistryError
from registry.registry import Registry

if TYPE_CHECKING:
    from encoder.adapters import Head
    from encoder.lora import Lora
    from registry.versions import Version

app = typer.Typer(no_args_is_help=True)
app.command("import")(import_)
app.command()(export)
Name = Annotated[str, typer.Argument(help="Name of the adapter.")]


@app.command("list")
@friendly
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every adapter and its live version."""
    from registry import versions

    with opened(data_dir) as (_, registry), registry.reading() as session:
        found = versions.all_adapters(session)
    if as_json:
        print_json([{"name": a.name, "live": a.live, "backbone": a.backbone} for a in found])
        return
    table = Table("adapter", "live version", "backbone")
    for adapter in found:
        table.add_row(adapter.name, str(adapter.live or "none"), adapter.backbone[:12])
    console.print(table)


@app.command()
@friendly
def show(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every version of an adapter, newest first."""
    from registry import versions

    with opened(data_dir) as (_, registry), registry.reading() as session:
        adapter = versions.get_adapter(session, name)
        history = sorted(versions.history(session, name), key=lambda version: -version.number)
    if as_json:
        print_json({"name": adapter.name, "live": adapter.live, "versions": [version_json(v) for v in history]})
        return
    table = Table("version", "state", "verdict", "dataset", "parent", "made")
    for version in history:
        table.add_row(
            version.name,
            version.state,
            (version.verdict or {}).get("outcome", ""),
            version.dataset,
            str(version.parent or ""),
            f"{version.created_at:%Y-%m-%d %H:%M}",
        )
    console.print(table)


@app.command()
@friendly
def promote(
    version: Annotated[str, typer.Argument(help="Version to make live, such as banking@3.")],
    force: Annotated[bool, typer.Option("--force", help="Also when the gate rejected it.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a version live; a running service follows within a second."""
    from registry import versions
    from registry.names import parse_model
    from registry.proven import move_proven

    name, number = parse_model(version)
    if number is None:
        raise fail(f"which version? give {name}@NUMBER; `driftline adapter show {name}` lists them", 2)
    with opened(data_dir) as (_, registry):
        promoted, _ = move_proven(
            registry,
            lambda session: versions.promote(session, name, number, by="cli", force=force),
            lambda version: prove(registry, version),
        )
    console.print(f"[bold]{promoted.name}[/bold] is live")


@app.command()
@friendly
def rollback(name: Name, data_dir: DataDir = None) -> None:
    """Make the version live again that was live before."""
    from registry import versions
    from registry.proven import move_proven

    with opened(data_dir) as (_, registry):
        restored, _ = move_proven(
            registry,
            lambda session: versions.rollback(session, name, by="cli"),
            lambda version: prove(registry, version),
        )
    console.print(f"[bold]{restored.name}[/bold] is live again")


def prove(registry: Registry, version: "Version") -> None:
    """Open a version and its drift reference as a service would, before it is made live.

    Raises typer.Exit when a digest, the graph, the probes or the reference is wrong.
    """
    from monitoring.reference import Reference

    try:
        manifest = _proven(registry, version).manifest
        reference = None if version.reference is None else Reference.from_bytes(registry.fetch(version.reference))
    except (RegistryError, EncoderError, MonitoringError) as error:
        raise fail(f"{version.name} cannot be served, so nothing was moved: {error}") from None
    if manifest.backbone != version.backbone:
        raise fail(f"{version.name} cannot be served, so nothing was moved: it stands on another backbone")
    if reference is not None and reference.dimension != manifest.dimension:
        raise fail(f"{version.name} cannot be served, so nothing was moved: its reference has another dimension")


def _proven(registry: Registry, version: "Version") -> "Head | Lora":
    """A version's adapter, which has reproduced its probes."""
    if version.kind == "lora":
        from encoder.encoder import Encoder
        from encoder.lora import Lora

        lora = Lora.open(version.digest, registry.fetch)
        if lora.manifest.backbone == version.backbone:
            Encoder.open(version.backbone, registry.fetch, provider="cpu").prove(lora)
        return lora
    from encoder.adapters import Head

    return Head.open(version.digest, registry.fetch)


def version_json(version: Any) -> dict[str, Any]:
    """A version as the API gives it."""
    names = (
        "name", "number", "state", "kind", "digest", "backbone", "reference", "parent", "dataset", "job_id", "metrics",
        "verdict", "created_at", "promoted_at",
    )  # fmt: skip
    return {name: getattr(version, name) for name in names}
