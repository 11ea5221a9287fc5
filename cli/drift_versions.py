"""`driftline drift versions`, `rebuild` and `advice`: what a version moves, a new reference, and what to do."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitoring.reference import Reference
    from registry.registry import Registry
    from registry.versions import Version

Name = Annotated[str, typer.Argument(help="Name of the adapter.")]
Provider = Annotated[str, typer.Option(envvar="DRIFTLINE_PROVIDER", help="Execution provider.")]
Precision = Annotated[str, typer.Option(envvar="DRIFTLINE_PRECISION", help="Number format.")]
Threads = Annotated[
    int | None, typer.Option(envvar="DRIFTLINE_THREADS", help="Threads of the runtime [default: every core].", min=1)
]


def register(app: typer.Typer) -> None:
    """Add these commands to the group `drift`."""
    app.command()(versions)
    app.command()(rebuild)
    app.command()(advice)


@friendly
def versions(
    old: Annotated[str, typer.Argument(help="Version such as banking@2, a name for its live version, or a backbone.")],
    new: Annotated[str, typer.Argument(help="The model it is compared with.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="Probes from this dataset, as name or name@revision [default: that of the new model]."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Most rows to be found among.", min=40, max=50_000)] = 10_000,
    provider: Provider = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """How much of its neighbourhoods a model keeps of another, on frozen probes, and whether old indexes still serve.

    Held-out rows of the dataset are looked up among its others by both models, each in its own vectors. Nothing is
    changed.
    """
    from encoder.encoder import Encoder
    from registry.names import parse_model
    from training.report.words import VERSIONS
    from training.versions_compare import compare_models, model_of

    named = None if dataset is None else parse_model(dataset)
    with opened(data_dir) as (_, registry):
        first, second = model_of(registry, old), model_of(registry, new)
        found = compare_models(
            registry,
            first,
            second,
            lambda digest: Encoder.open(
                digest, registry.fetch, provider=provider, precision=precision, threads=threads
            ),
            dataset=named,
            rows=rows,
            tell=_tell(quiet=as_json),
        )
    told = found.to_json()
    if as_json:
        print_json(told)
        return
    drift = found.found
    console.print(
        f"[bold]{told['new']}[/bold] against {told['old']}: {drift.probes} probes among {drift.rows} rows of "
        f"{found.dataset.name}@{found.dataset.revision}"
    )
    table = Table("measure (1: nothing changed)", "kept", "95 % interval")
    for name, words in VERSIONS.items():
        if name in drift.measures:
            of = drift.measures[name]
            table.add_row(words, f"{of.mean:.3f}", f"{of.low:.3f} to {of.high:.3f}")
    console.print(table)
    console.print(drift.words, soft_wrap=True)


@friendly
def rebuild(
    name: Name,
    newer: Annotated[
        str | None,
        typer.Option(help="Calibrate on the rows of this dataset, as name or name@revision, in place of older ones."),
    ] = None,
    unseen: Annotated[
        bool,
        typer.Option("--unseen", help="Your word that an import, which does not say, was fitted on no row of --newer."),
    ] = False,
    provider: Provider = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Build the reference of the live version anew; a running service loads it and its monitor begins afresh.

    Without --newer it is what the retrain built, from the rows the version was fitted on and those held out. With it,
    part of the newer rows joins the index and the rest calibrates, so that traffic like them counts as usual.
    """
    from encoder.encoder import Encoder
    from registry.names import parse_model
    from training.rebuild import rebuild as rebuild_reference

    if unseen and newer is None:
        raise fail("--unseen goes with --newer", 2)
    named = None if newer is None else parse_model(newer)
    with opened(data_dir) as (_, registry):
        version = _live(registry, name)
        tell = _tell(quiet=as_json)
        tell("loading the backbone")
        encoder = Encoder.open(
            version.backbone, registry.fetch, provider=provider, precision=precision, threads=threads
        )
        found = rebuild_reference(registry, version, encoder, newer=named, unseen=unseen, by="cli", tell=tell)
    told = found.to_json()
    if as_json:
        print_json(told)
        return
    console.print(
        f"[bold]{version.name}[/bold] has its reference number {told['number']}: {told['fit']} items in the index, "
        f"{told['calibration']} to calibrate, {told['replay']} to replay, {told['cells']} neighbourhoods",
        soft_wrap=True,
    )
    console.print(told["why_not"] or "It is calibrated; its monitor begins afresh.", soft_wrap=True)


@friendly
def advice(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """What to do about drift: nothing, rebuild the reference, recalibrate thresholds, or retrain; with reasons.

    From what the registry holds. A running service also knows whether its runtime still computes the same vectors and
    whether alarms come as seldom as stated: GET /admin/drift/NAME/advice.
    """
    from monitoring.advice import advise
    from monitoring.situation import situation
    from registry import versions as stored

    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            stored.get_adapter(session, name)
            live = stored.live(session, name)
        reference = None if live is None else _reference(registry, live)
        with registry.reading() as session:
            known = situation(session, name, why_not=None if reference is None else reference.why_not)
    found = advise(known, _settings())
    if as_json:
        print_json({"adapter": name, "version": known.live, **found.to_json()})
        return
    console.print(f"[bold]{known.live or name}[/bold]: {found.action.value.replace('_', ' ')}")
    for reason in found.reasons:
        console.print(f"  {reason.text}", markup=False, soft_wrap=True)
    if found.items is not None:
        console.print(f"  driftline drift informative {name}", markup=False)


def _settings() -> Any:
    """How large a shift must be, as the service's variables say."""
    from monitoring.monitor_settings import MonitorSettings
    from service import Settings

    nothing: dict[str, Any] = {}
    given = Settings(**nothing)
    return MonitorSettings(
        min_novelty_ratio=given.drift_min_novelty_ratio, min_tv=given.drift_min_tv, min_auc=given.drift_min_auc
    )


def _live(registry: "Registry", name: str) -> "Version":
    from registry import versions as stored
    from registry.errors import NotFound

    with registry.reading() as session:
        stored.get_adapter(session, name)
        live = stored.live(session, name)
    if live is None:
        raise NotFound("live version of", name)
    return live


def _reference(registry: "Registry", live: "Version") -> "Reference | None":
    from monitoring.reference import Reference

    return None if live.reference is None else Reference.from_bytes(registry.fetch(live.reference))


def _tell(*, quiet: bool) -> "Callable[[str], None]":
    """Says on standard error what is being done."""
    return lambda words: None if quiet else errors.print(f"  {words}", markup=False)
