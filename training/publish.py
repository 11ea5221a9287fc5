"""The steps of a retrain that turn a fitted head into a version: export, proof, reference, store, publish, promote."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np

from encoder.adapters import Head
from encoder.manifest import FileEntry, HeadManifest, Parity
from encoder.runtime import HeadSession
from monitoring.gate import Outcome
from monitoring.limits import laxer_fields
from monitoring.reference import Reference, split_held_out
from registry import versions
from registry.errors import Conflict
from registry.row import RowKind
from registry.states import VersionState
from registry.versions import Version
from training.data import Corpus
from training.errors import ExportFailed
from training.fitted import FILE as FITTED
from training.head_export import export_head
from training.problem import Indices, Vectors
from training.steps import JobContext

MAX_ABS_DIFFERENCE = 1e-4
MIN_COSINE = 0.99999
# A head whose largest component differs from the base's by less than this was lost on the way.
MIN_CHANGE = 1e-4
PROBES = 64
_VERSIONED = ("numpy", "onnx", "onnxruntime", "torch")


def export(context: JobContext) -> None:
    """Write the head as ONNX, and probes by which a loader can tell that it runs right."""
    weights = context.weights()
    _, generic = context.vectors()
    inputs = generic[:: max(1, len(generic) // PROBES)][:PROBES]
    context.folder.write("head.onnx", export_head(weights))
    context.folder.write_arrays("probes.safetensors", {"inputs": inputs, "outputs": weights.apply(inputs)})
    context.tell("export", 1.0)


def check(context: JobContext) -> None:
    """Prove that exported, reloaded and fitted head agree, on every row, and that they are not the base.

    Raises:
        ExportFailed: They do not, or they are.
    """
    base, generic = context.vectors()
    rows = np.concatenate([base, generic])
    graph = context.folder.read("head.onnx")
    exported = HeadSession(graph).run(rows)
    fitted = context.weights().apply(rows)
    parity = _agree(exported, fitted, "the fitted weights")
    witness = context.folder.read_arrays("witness.safetensors")
    _agree(HeadSession(graph).run(witness["inputs"]), witness["outputs"], "torch")
    change = float(np.abs(exported - rows).max())
    if change < MIN_CHANGE:
        raise ExportFailed(
            f"the fitted head changes no vector by more than {change:.1e}, so it would only repeat the base; "
            "give the fit more steps or a higher learning_rate"
        )

    manifest = _manifest(context, graph, parity).to_bytes()
    context.folder.write("manifest.json", manifest)
    files = [manifest, graph, context.folder.read("probes.safetensors")]
    kept = {FileEntry.of(data).sha256: data for data in files}
    reloaded = Head.open(FileEntry.of(manifest).sha256, kept.__getitem__)
    _agree(reloaded.apply(rows), fitted, "the fitted weights after reloading")
    context.tell(
        "check",
        1.0,
        f"largest difference {parity.max_abs_difference:.1e} over {parity.texts} vectors",
        {"parity": {"max_abs_difference": parity.max_abs_difference, "min_cosine": parity.min_cosine}},
    )


def _agree(found: Vectors, wanted: Vectors, what: str) -> Parity:
    difference = float(np.abs(found - wanted).max())
    cosine = min(1.0, float((found * wanted).sum(axis=1).min()))
    # Written so that a NaN fails.
    if not (difference <= MAX_ABS_DIFFERENCE and cosine >= MIN_COSINE):
        raise ExportFailed(
            f"the exported head differs from {what} by {difference:.1e} (smallest cosine {cosine:.6f}); "
            "nothing was published. Queue the retrain again, and report it if it happens twice"
        )
    return Parity(len(found), difference, cosine)


def _manifest(context: JobContext, graph: bytes, parity: Parity) -> HeadManifest:
    facts, report = context.snapshot, context.folder.read_json("fit.json")
    # No times and no machine: equal work gives equal bytes.
    metrics = {
        "evaluation": context.folder.read_json("means.json"),
        "fit": {name: report[name] for name in ("base_score", "select_score", "best_step", "alpha")},
        "outcome": context.folder.read_json("verdict.json")["outcome"],
        "rows": facts["rows"],
    }
    champion = facts["champion"]
    return HeadManifest(
        backbone=facts["backbone"],
        dimension=context.weights().dimension,
        files={
            "head.onnx": FileEntry.of(graph),
            "probes.safetensors": FileEntry.of(context.folder.read("probes.safetensors")),
        },
        parity=parity,
        recipe=context.recipe.to_dict(),
        dataset=facts["dataset"] | {"fitted": FileEntry.of(context.folder.read(FITTED)).sha256},
        metrics=metrics,
        parent=None if champion is None else champion["digest"],
        job=context.job.id,
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )


def reference(context: JobContext) -> None:
    """Build what drift is measured against: fitted rows as index, held-out rows as calibration and replay.

    No held-out row was fitted on; the selection rows did choose the step at which the fit stopped, and alpha. Where the
    head was fitted once more, on them too, they are fitted rows.
    """
    corpus, parts = context.corpus(), context.parts()
    base, _ = context.vectors()
    vectors = context.weights().apply(base)
    refit = context.recipe.refit
    held_out = parts.gate if refit else np.concatenate([parts.select, parts.gate])
    calibration, replay = split_held_out(len(held_out), seed=context.recipe.seed, clusters=parts.clusters[held_out])
    fit_texts, ids, labels = _fit_items(corpus, parts.seen(refit))
    built = Reference.build(
        fit=vectors[fit_texts],
        fit_ids=ids,
        fit_labels=labels,
        calibration=vectors[_traffic(corpus, held_out[calibration])],
        replay=vectors[_traffic(corpus, held_out[replay])],
        seed=context.recipe.seed,
        version_info={"adapter": context.job.adapter, "job": context.job.id, "dataset": context.snapshot["dataset"]},
    )
    context.folder.write("reference.safetensors", built.to_bytes())
    context.tell("reference", 1.0, built.why_not or f"{len(fit_texts)} fitted and {built.n_cal} calibration rows")


def _fit_items(corpus: Corpus, rows: Indices) -> tuple[Indices, list[str], list[str] | None]:
    """Text numbers, ids and labels of the fitted rows; ids are the dataset's row numbers, from 1."""
    numbers = [str(row + 1) for row in rows]
    if corpus.kind is RowKind.LABELLED:
        return corpus.subject[rows], numbers, [corpus.labels[row] for row in rows]
    texts = np.concatenate([corpus.subject[rows], corpus.positive[rows]])
    return texts, [f"{n}.anchor" for n in numbers] + [f"{n}.positive" for n in numbers], None


def _traffic(corpus: Corpus, rows: Indices) -> Indices:
    """Text numbers of rows as they would arrive: both sides of a pair are embedded in use, an answer once."""
    if corpus.kind is RowKind.LABELLED:
        return corpus.subject[rows]
    return np.concatenate([corpus.subject[rows], np.unique(corpus.positive[rows])])


def store(context: JobContext) -> None:
    """Put every artifact into the store, the manifest last; nothing names them yet."""
    for name in ("head.onnx", "probes.safetensors", "reference.safetensors", FITTED, "manifest.json"):
        context.registry.store(context.folder.read(name))
    context.tell("store", 1.0)


def publish(context: JobContext) -> None:
    """Enter the version, in one transaction; repeating it gives the version that is there already."""
    facts = context.snapshot
    verdict = context.folder.read_json("verdict.json")
    manifest = context.folder.read("manifest.json")
    champion = facts["champion"]
    with context.registry.writing() as session:
        version = versions.publish(
            session,
            adapter=context.job.adapter,
            digest=FileEntry.of(manifest).sha256,
            kind="head",
            backbone=facts["backbone"],
            reference=FileEntry.of(context.folder.read("reference.safetensors")).sha256,
            parent=None if champion is None else champion["number"],
            job_id=context.job.id,
            dataset=f"{facts['dataset']['name']}@{facts['dataset']['revision']}",
            metrics=HeadManifest.from_bytes(manifest).metrics,
            verdict=verdict,
            rejected=verdict["outcome"] == Outcome.FAIL,
        )
    context.folder.write_json("version.json", {"number": version.number})


def promote(context: JobContext) -> None:
    """Make the version live if it passed, the recipe allows it, and nobody moved the live pointer meanwhile.

    A recipe may ask the gate for less than the defaults do; then its verdict is information and a person decides.
    """
    number = context.folder.read_json("version.json")["number"]
    outcome = context.folder.read_json("verdict.json")["outcome"]
    champion = context.snapshot["champion"]
    expected = None if champion is None else champion["number"]
    with context.registry.reading() as session:
        version = versions.get(session, context.job.adapter, number)
    context.folder.write_json("promotion.json", _promotion(context, version, outcome, expected))


def _promotion(context: JobContext, version: Version, outcome: str, expected: int | None) -> Mapping[str, Any]:
    if outcome != Outcome.PASS:
        return {"promoted": False, "why": f"the verdict is {outcome}"}
    if not context.recipe.promote:
        return {"promoted": False, "why": "the recipe says promote = false"}
    if laxer := laxer_fields(context.recipe.gate_settings()):
        named = ", ".join(laxer)
        return {"promoted": False, "why": f"the recipe's gate is laxer than the default in {named}; promote it by hand"}
    if version.promoted_at is None and version.state is VersionState.CANDIDATE:
        try:
            with context.registry.writing() as session:
                versions.promote(session, version.adapter, version.number, by=context.job.id, expect_live=expected)
        except Conflict:
            return {"promoted": False, "why": "another version went live meanwhile; promote it by hand if it is better"}
    return {"promoted": True, "why": "the verdict is pass"}
