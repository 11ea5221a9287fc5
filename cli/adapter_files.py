"""`driftline adapter import` and `export`: adapters trained elsewhere come in, versions go out as one ONNX file."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from registry.registry import Registry
    from registry.versions import Version


@friendly
def import_(
    name: Annotated[str, typer.Argument(help="Name of the adapter; made where there is none.")],
    folder: Annotated[
        Path, typer.Argument(metavar="PEFT_DIR", help="Holds adapter_config.json and adapter_model.safetensors.")
    ],
    backbone: Annotated[
        str | None, typer.Option(help="Backbone it was trained on [default: the first].", show_default=False)
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the backbone's pretrained weights, where they cannot be found."),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a LoRA adapter trained with PEFT a candidate version, once it gives the vectors that PEFT gives."""
    from registry import backbones, versions
    from registry.names import valid_name

    with opened(data_dir) as (_, registry):
        valid_name(name)
        with registry.reading() as session:
            known = backbones.all(session)
            live = versions.live(session, name)
        found = next((b for b in known if backbone in (None, b.name)), None)
        if found is None:
            raise fail("there is no such backbone; `driftline backbone list` shows those there are")
        from training.lora_import import import_lora

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("reading the adapter", total=1.0)
            manifest = import_lora(
                folder,
                found.digest,
                registry.fetch,
                registry.store,
                base=base,
                parent=None if live is None else live.digest,
                progress=lambda step, fraction: bar.update(task, description=step, completed=fraction),
            )
        parity = manifest.parity
        agreement = {
            "texts": parity.texts,
            "max_abs_difference": parity.max_abs_difference,
            "min_cosine": parity.min_cosine,
        }
        with registry.writing() as session:
            versions.ensure_adapter(session, name, found.digest, by="cli")
            version = versions.publish(
                session,
                adapter=name,
                digest=manifest.digest,
                kind=manifest.kind,
                backbone=found.digest,
                reference=None,
                parent=None if live is None else live.number,
                job_id=None,
                dataset="imported",
                metrics={**manifest.metrics, "parity": agreement},
                verdict=None,
                rejected=False,
            )
    if as_json:
        from cli.adapter import version_json

        print_json({**version_json(version), "rank": manifest.rank, "recipe": manifest.recipe})
        return
    console.print(
        f"Imported [bold]{version.name}[/bold]: LoRA of rank {manifest.rank} on {len(manifest.recipe['modules'])} "
        f"modules of {found.name}\n"
        f"Parity with PEFT on {parity.texts} texts: largest difference {parity.max_abs_difference:.1e}, "
        f"smallest cosine {parity.min_cosine:.7f}\n"
        f"Make it live with: driftline adapter promote {version.name}",
        soft_wrap=True,
    )


@friendly
def export(
    version: Annotated[str, typer.Argument(help="Version such as banking@3, or a name for its live version.")],
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Also write the backbone's tokenizer.json here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write a version and its backbone as one ONNX file that any ONNX Runtime can load."""
    from encoder.adapters import Head
    from encoder.encoder import Encoder
    from encoder.lora import Lora
    from encoder.standalone import export_version

    files = [out] if tokenizer is None else [out, tokenizer]
    for path in files:
        if path.exists() and not force:
            raise fail(f"{path} exists; --force overwrites it")
        if not path.absolute().parent.is_dir():
            raise fail(f"there is no folder {path.absolute().parent}")
    with opened(data_dir) as (_, registry):
        record = _version(registry, version)
        encoder = Encoder.open(record.backbone, registry.fetch, provider="cpu", precision="fp32")
        opener = Lora.open if record.kind == "lora" else Head.open
        data, parity = export_version(encoder, opener(record.digest, registry.fetch), registry.fetch)
        _write(out, data)
        if tokenizer is not None:
            _write(tokenizer, registry.fetch(encoder.manifest.files["tokenizer.json"].sha256))
    console.print(
        f"Wrote [bold]{record.name}[/bold] with its backbone to {out} ({len(data) / 1e6:.1f} MB)\n"
        f"Agreement with the served vectors on {parity.texts} texts: largest difference "
        f"{parity.max_abs_difference:.1e}, smallest cosine {parity.min_cosine:.7f}",
        soft_wrap=True,
    )


def _version(registry: "Registry", asked: str) -> "Version":
    """The version a name or name@number means."""
    from registry import versions
    from registry.names import parse_model

    name, number = parse_model(asked)
    with registry.reading() as session:
        if number is not None:
            return versions.get(session, name, number)
        versions.get_adapter(session, name)
        live = versions.live(session, name)
    if live is None:
        raise fail(f"{name} has no live version; give {name}@NUMBER", 2)
    return live


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        raise fail(f"{path} cannot be written: {error.strerror}") from None
    finally:
        aside.unlink(missing_ok=True)
