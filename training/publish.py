"""The steps of a retrain that turn a judged artifact into a version: reference, store, publish, promote."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from encoder.lora_manifest import LoraManifest
from encoder.manifest import FileEntry, HeadManifest
from monitoring.gate import Outcome
from monitoring.limits import laxer_fields
from monitoring.rollout_rules import Rules
from registry import rollouts, versions
from registry.errors import Conflict
from registry.row import RowKind
from registry.states import VersionState
from registry.versions import Version
from training.contenders import FILES, candidate
from training.evaluation_document import FILE as EVALUATION
from training.fitted import FILE as FITTED
from training.lora_task import DRAFT
from training.reference_build import Material, reference_of
from training.report_step import CARD, REPORT, report_files
from training.steps import JobContext

MANIFEST: Final = "manifest.json"
DOCUMENTS: Final = {"report": REPORT, "card": CARD}
# What a manifest keeps of the fit's report.
_FIT = ("method", "why", "base_score", "select_score", "best_step", "alpha", "stopped")


def reference(context: JobContext) -> None:
    """Build what drift is measured against: fitted rows as index, held-out rows as calibration and replay.

    Vectors are those of the exported artifact. No held-out row was fitted on; the selection rows did choose the step at
    which the fit stopped, and alpha. Where the head was fitted once more, on them too, they are fitted rows.
    """
    built = reference_of(
        Material(context.corpus(), context.parts(), candidate(context).texts),
        seed=context.recipe.seed,
        refit=context.recipe.refit,
        info={"adapter": context.job.adapter, "job": context.job.id, "dataset": context.snapshot["dataset"]},
    )
    context.folder.write("reference.safetensors", built.to_bytes())
    words = built.why_not or f"{len(built.fit)} fitted and {built.n_cal} calibration rows"
    context.tell("reference", 1.0, words)


def store(context: JobContext) -> None:
    """Finish the manifest with the figures of the evaluation, and put every artifact into the store, the manifest last;
    nothing names them yet."""
    context.folder.write(MANIFEST, _manifest(context).to_bytes())
    for name in (*FILES[context.kind], "reference.safetensors", FITTED, MANIFEST):
        context.registry.store(context.folder.read(name))
    for document in report_files(context).values():
        context.registry.store(document)
    context.tell("store", 1.0)


def _manifest(context: JobContext) -> HeadManifest | LoraManifest:
    """The version's manifest; no times and no paths beside those measured in its own fit."""
    folder, report = context.folder, context.folder.read_json("fit.json")
    draft = folder.read(DRAFT)
    manifest = (LoraManifest if context.kind == LoraManifest.KIND else HeadManifest).from_bytes(draft)
    metrics = {
        **manifest.metrics,
        "evaluation": folder.read_json("means.json"),
        "fit": {name: report[name] for name in _FIT} | {"extra": report.get("extra", {})},
        "outcome": folder.read_json("verdict.json")["outcome"],
        "rows": context.snapshot["rows"],
    }
    return replace(manifest, metrics=metrics)


def publish(context: JobContext) -> None:
    """Enter the version, in one transaction; repeating it gives the version that is there already.

    That may be one that another worker fitted and published before it died: then its verdict is the job's.
    """
    facts = context.snapshot
    verdict = context.folder.read_json("verdict.json")
    manifest = _manifest(context)
    champion = facts["champion"]
    with context.registry.holding(context.job) as session:
        version = versions.publish(
            session,
            adapter=context.job.adapter,
            digest=manifest.digest,
            kind=context.kind,
            backbone=facts["backbone"],
            reference=FileEntry.of(context.folder.read("reference.safetensors")).sha256,
            parent=None if champion is None else champion["number"],
            job_id=context.job.id,
            dataset=f"{facts['dataset']['name']}@{facts['dataset']['revision']}",
            metrics={**manifest.metrics, **_documents(context), **_versions(context)},
            verdict=verdict,
            rejected=verdict["outcome"] == Outcome.FAIL,
        )
    context.folder.write_json("verdict.json", version.verdict)
    context.folder.write_json("version.json", {"number": version.number})


def _documents(context: JobContext) -> dict[str, str]:
    """Digests of the report and the model card, as far as they could be made."""
    files = report_files(context)
    return {name: FileEntry.of(files[file]).sha256 for name, file in DOCUMENTS.items() if file in files}


def _versions(context: JobContext) -> dict[str, Any]:
    """What it moves of the version that was live, by that version's number; nothing where that was not measured."""
    found, champion = context.folder.read_json(EVALUATION)["versions"], context.snapshot["champion"]
    return {} if found is None or champion is None else {"versions": {**found, "other": champion["number"]}}


def promote(context: JobContext) -> None:
    """Make the version live if it passed, the recipe allows it, and nobody moved the live pointer meanwhile.

    A recipe may ask the gate for less than the defaults do; then its verdict is information and a person decides.
    """
    number = context.folder.read_json("version.json")["number"]
    outcome = context.folder.read_json("verdict.json")["outcome"]
    with context.registry.reading() as session:
        version = versions.get(session, context.job.adapter, number)
    # Its parent is the champion that it was judged beside.
    context.folder.write_json("promotion.json", _promotion(context, version, outcome, version.parent))


def _promotion(context: JobContext, version: Version, outcome: str, expected: int | None) -> Mapping[str, Any]:
    if outcome != Outcome.PASS:
        return {"promoted": False, "why": f"the verdict is {outcome}"}
    if not context.recipe.promote:
        return {"promoted": False, "why": "the recipe says promote = false"}
    if context.snapshot["dataset"]["kind"] == RowKind.UNLABELLED:
        return {"promoted": False, "why": "it was fitted and judged without labels or pairs; promote it by hand"}
    if laxer := laxer_fields(context.recipe.gate_settings()):
        named = ", ".join(laxer)
        return {"promoted": False, "why": f"the recipe's gate is laxer than the default in {named}; promote it by hand"}
    if context.recipe.rollout is not None and expected is not None:  # without a live version nothing is compared with
        return _rolled_out(context, version, context.recipe.rollout, expected)
    if version.promoted_at is None and version.state is VersionState.CANDIDATE:
        try:
            with context.registry.holding(context.job) as session:
                versions.promote(session, version.adapter, version.number, by=context.job.id, expect_live=expected)
        except Conflict:
            return {"promoted": False, "why": "another version went live meanwhile; promote it by hand if it is better"}
    return {"promoted": True, "why": "the verdict is pass"}


def _rolled_out(context: JobContext, version: Version, rules: Mapping[str, Any], live: int) -> Mapping[str, Any]:
    try:
        with context.registry.holding(context.job) as session:
            rollouts.start(
                session,
                version.adapter,
                version.number,
                rules=Rules.from_mapping(rules).to_dict(),
                by=context.job.id,
                expect_live=live,
                once=True,
            )
    except Conflict as conflict:
        return {"promoted": False, "why": f"the verdict is pass, but no rollout was begun: {conflict}"}
    return {"promoted": False, "why": "the verdict is pass; a rollout decides"}
