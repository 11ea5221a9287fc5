"""`driftline ablate`: recipe variants fitted on one split, in one table with intervals."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.common import AsJson, DataDir, console, errors, fail, friendly, opened, print_json

if TYPE_CHECKING:
    from monitoring.significance import Interval
    from registry.datasets import DatasetRevision
    from training.ablation import Ablation, Ground, Outcome, Tell

_BESIDE = ("knn_accuracy", "nn_accuracy")
"""The metric shown beside the first one: the first of these that was scored."""


@friendly
def ablate(
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset name, or name@revision.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe that the variants change, as TOML or JSON [default: the default recipe].",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="A variant as 'name: field=value, field=value'; may be given several times."),
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option(help="Variants as TOML: a table each, with the fields it changes.", exists=True, dir_okay=False),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Fits of each variant; the split stays the same.", min=1, max=100)] = 3,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the whole comparison to this file, as JSON.", dir_okay=False)
    ] = None,
    provider: Annotated[str, typer.Option(envvar="DRIFTLINE_PROVIDER", help="Execution provider.")] = "auto",
    precision: Annotated[str, typer.Option(envvar="DRIFTLINE_PRECISION", help="Number format.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(envvar="DRIFTLINE_THREADS", help="Threads of the runtime [default: every core].", min=1),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare recipe variants on the rows a retrain fits and selects on; its gate rows are not touched.

    Without variants, each ingredient of the recipe is switched off by itself, and the main alternatives are tried. The
    method "auto" stands for its head; say method=lora for a LoRA. Added texts (augment, unlabelled) are not compared.
    No version is published.
    """
    from encoder.encoder import Encoder
    from monitoring.recipe import Recipe
    from registry import backbones, datasets
    from registry.names import parse_model
    from training import ablation
    from training.ablation_variants import default_variants, parse_variant, read_variants, variants_of
    from training.pretrained import find_pretrained

    name, revision = parse_model(dataset)
    base = Recipe.from_file(recipe) if recipe else Recipe()
    named = [*(read_variants(variants) if variants else []), *(parse_variant(text) for text in variant or [])]
    with opened(data_dir) as (_, registry):
        with registry.reading() as session:
            found = datasets.get(session, name, revision)
            backbone = backbones.default(session)
        if backbone is None:
            raise fail("no backbone has been imported; run: driftline backbone import")
        compared = variants_of(base, named or default_variants(base, found.kind), found.kind)
        encoder = Encoder.open(backbone.digest, registry.fetch, provider=provider, precision=precision, threads=threads)
        rows = datasets.load_rows(registry.artifacts, found)
        source = None
        if any(variant.recipe.method == "lora" for variant in compared):
            _, source = find_pretrained(encoder.manifest)
    with _progress(len(compared), seeds, quiet=as_json) as (encoding, fitting):
        ground = ablation.Ground.of(
            rows,
            found.kind,
            base.seed,
            lambda texts: encoder.encode(list(texts), truncate=True, progress=encoding).vectors,
            source,
        )
        result = ablation.ablate(ground, compared, seeds, fitting)
    document = _document(found, backbone.name, ground, result)
    if out is not None:
        out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        _show(found, ground, result)


@contextmanager
def _progress(variants: int, seeds: int, *, quiet: bool) -> Iterator[tuple[Callable[[int, int], None], "Tell"]]:
    """A bar on standard error: what is told while texts are encoded, and while variants are fitted."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeRemainingColumn(), console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task("encoding")
        begun: dict[str, int] = {}

        def encoding(done: int, whole: int) -> None:
            bar.update(task, description="encoding", completed=done, total=whole)

        def fitting(name: str, number: int, share: float) -> None:
            place = begun.setdefault(name, len(begun))
            completed = place * seeds + number + share
            description = f"{name}, fit {number + 1} of {seeds}"
            bar.update(task, description=description, completed=completed, total=variants * seeds)

        yield encoding, fitting


def _document(dataset: "DatasetRevision", backbone: str, ground: "Ground", result: "Ablation") -> dict[str, Any]:
    parts = ground.parts
    return {
        "dataset": {"name": dataset.name, "revision": dataset.revision, "digest": dataset.digest},
        "backbone_name": backbone,
        "rows": {
            "fit": len(parts.fit),
            "select": len(parts.select),
            "judged": len(parts.judged),
            "held_back": ground.held_back,
        },
        **result.to_json(),
    }


def _show(dataset: "DatasetRevision", ground: "Ground", result: "Ablation") -> None:
    """The table, and above and below it what its figures rest on."""
    parts, metric = ground.parts, result.metric
    console.print(
        f"Dataset [bold]{dataset.name}[/bold] revision {dataset.revision}: fitted on {len(parts.fit)} rows, selected "
        f"on {len(parts.select)}, judged on {len(parts.judged)}; the {ground.held_back} rows that a retrain's gate "
        "judges on were left alone.",
        soft_wrap=True,
    )
    beside = next(name for name in _BESIDE if name in result.base)
    table = Table(
        "variant", metric, "± sd", "to the recipe", "95 %", "to the backbone", "95 %", beside, "kept", "step", "s"
    )
    bare = (f"{result.base[name].mean():.4f}" for name in (metric, beside))
    table.add_row("backbone", next(bare), "", "", "", "", "", next(bare), "1.00", "", "")
    for outcome in result.outcomes:
        table.add_row(*_cells(outcome, result, beside))
    console.print(table)
    for outcome in result.outcomes:
        if outcome.fault:
            console.print(f"{outcome.variant.name}: {outcome.fault}", markup=False, soft_wrap=True)
    console.print(
        f"Means over {len(result.seeds)} seeds of the fit, sd between them. Intervals: paired bootstrap over the "
        "judged items, each with its mean over the seeds; each holds by itself, so of twenty variants that change "
        "nothing one will look different. kept: the share of ten nearest generic sentences that are the backbone's.",
        soft_wrap=True,
    )


def _cells(outcome: "Outcome", result: "Ablation", beside: str) -> list[str]:
    from training.ablation import spread

    if outcome.fault:
        return [outcome.variant.name, "failed"]
    first = spread(outcome.means(result.metric))
    trials = outcome.trials
    recipe = result.outcomes[0]
    return [
        outcome.variant.name,
        f"{first['mean']:.4f}",
        "" if first["sd"] is None else f"{first['sd']:.4f}",
        *_interval(None if outcome is recipe else result.against_recipe(outcome, result.metric)),
        *_interval(result.against_base(outcome, result.metric)),
        f"{spread(outcome.means(beside))['mean']:.4f}",
        f"{spread([trial.kept for trial in trials])['mean']:.2f}",
        f"{spread([trial.best_step for trial in trials])['mean']:.0f}",
        f"{spread([trial.seconds for trial in trials])['mean']:.1f}",
    ]


def _interval(found: "Interval | None") -> tuple[str, str]:
    return ("", "") if found is None else (f"{found.mean:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}")
