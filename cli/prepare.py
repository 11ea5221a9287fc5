"""`driftline prepare`: what a service needs before its first start, done once or again: schema, backbone, keys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import DataDir, console, fail, friendly, opened

if TYPE_CHECKING:
    from registry.keys import Scope
    from registry.registry import Registry

# Readable to the group: who presents the key runs as another user of the same group.
KEY_MODE = 0o640


@friendly
def prepare(
    backbone: Annotated[
        Path | None,
        typer.Option(
            envvar="DRIFTLINE_BACKBONE",
            help="Folder of `driftline backbone export`, imported where no backbone is; the images carry one.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:SCOPES=FILE",
            help="A key whose secret is the content of FILE, such as alerts:train=/keys/alerts; scopes have + between. "
            "A file that is not there is made, with a fresh secret. Repeat for several.",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Migrate the schema, import the backbone of a folder, and register keys; run again, it changes nothing."""
    wanted = [_parse(each) for each in key or ()]
    with opened(data_dir) as (home, registry):
        if backbone is not None:
            _import_backbone(registry, backbone)
        for name, scopes, file in wanted:
            _register(registry, name, scopes, file)
    console.print(f"{home.data_dir} is ready to serve", soft_wrap=True)


def _parse(given: str) -> tuple[str, "frozenset[Scope]", Path]:
    from registry.keys import Scope

    what, _, file = given.partition("=")
    name, _, scopes = what.rpartition(":")
    try:
        granted = frozenset(Scope(scope) for scope in scopes.split("+"))
    except ValueError:
        raise fail(f"a key is given as NAME:SCOPES=FILE, with scopes of {', '.join(Scope)}", 2) from None
    if not name or not file:
        raise fail("a key is given as NAME:SCOPES=FILE", 2)
    return name, granted, Path(file)


def _import_backbone(registry: "Registry", folder: Path) -> None:
    from cli.backbone_folder import read_backbone
    from registry import backbones

    with registry.reading() as session:
        present = backbones.default(session)
    if present is not None:
        return
    manifest = read_backbone(folder, registry.store)
    with registry.writing() as session:
        backbones.add(session, manifest.to_dict(), manifest.digest, by="cli")
    console.print(f"Imported {manifest.name}")


def _register(registry: "Registry", name: str, scopes: "frozenset[Scope]", file: Path) -> None:
    from registry import keys

    try:
        if not file.exists():
            file.touch(mode=KEY_MODE, exist_ok=False)
            file.write_text(keys.new_secret(), encoding="ascii")
            console.print(f"Wrote a fresh secret to {file}", soft_wrap=True)
        secret = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise fail(f"the key in {file} cannot be used: {reason}") from None
    try:
        with registry.writing() as session:
            keys.issue(session, name, scopes, secret=secret, by="cli")
    except ValueError:
        raise fail(f"{file} does not hold a key; `driftline key generate` makes one") from None
