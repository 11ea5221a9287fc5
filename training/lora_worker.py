"""The worker's side of a LoRA fit: what its processes are given, how they are run, and what they said."""

from collections.abc import Callable, Mapping
from typing import Any

from encoder.manifest import BackboneManifest, load_files, load_manifest_bytes, sha256
from encoder.tokens import Tokenizer
from training import problem
from training.child import LORA_FIT, LORA_PROOF, FitProcess
from training.crash import crash_point
from training.data import fit_problem, fit_texts
from training.errors import ExportFailed, FitFailed
from training.files import WorkFolder
from training.fitted import FILE as FITTED
from training.lora_task import (
    BACKBONE,
    DRAFT,
    NOTES,
    PROBLEM,
    REPORT,
    TASK,
    TOKENS,
    LoraDeclined,
    LoraTask,
    settings_of,
    token_arrays,
)
from training.pretrained import find_pretrained
from training.steps import JobContext

# Beyond the budget of the steps: loading torch and the model, twice, and writing.
_LOADING_S = 60.0
_PROOF_S = 600.0

Tell = Callable[[Mapping[str, Any]], None]


def backbone_of(context: JobContext) -> BackboneManifest:
    """The manifest of the job's backbone."""
    return BackboneManifest.from_bytes(load_manifest_bytes(context.snapshot["backbone"], context.registry.fetch))


def fit_lora(context: JobContext, budget_s: float, least_share: float, head: bool, tell: Tell) -> dict[str, Any]:
    """Fit a LoRA in processes of its own; its report. A fit that was killed goes on from its checkpoint.

    Args:
        context: The job.
        budget_s: Longest the fit may take, in seconds.
        least_share: Share of its steps that the budget has to hold, lest it is declined.
        head: Whether a head was fitted before it, which it is compared with.
        tell: Takes {step, steps, loss, score} as the fit goes on.

    Raises:
        PretrainedMissing: The model that it starts from is not on this machine.
        LoraDeclined: The budget does not hold enough of its steps.
        FitFailed: It failed, died or overran its time.
    """
    folder, recipe = context.folder, context.recipe
    if not folder.has(REPORT):
        if not folder.has(TASK):
            _hand_over(context, budget_s, least_share, head)
        process = FitProcess(folder.path, LORA_FIT, recipe.lora.get("processes", 1))
        _run(context, process, lambda told: _told(told, tell), budget_s + _LOADING_S)
    report: dict[str, Any] = folder.read_json(REPORT)
    if "declined" in report:
        raise LoraDeclined(report["declined"])
    return report


def prove_lora(context: JobContext, tell: Tell) -> None:
    """Prove the fitted adapter in a process of its own, which leaves its artifact in the work folder.

    Raises:
        ExportFailed: Fitted, stored and exported adapter do not agree.
    """
    folder, digest = context.folder, context.snapshot["backbone"]
    if folder.has(DRAFT):
        return
    backbone = WorkFolder(folder.path / BACKBONE)
    backbone.create()
    fetch = context.registry.fetch
    manifest = load_manifest_bytes(digest, fetch)
    for data in (manifest, *load_files(BackboneManifest.from_bytes(manifest).files, fetch).values()):
        backbone.write(sha256(data), data)
    facts, champion = context.snapshot, context.snapshot["champion"]
    report = folder.read_json("fit.json")
    recipe = {"source": "fit", "share": report["alpha"], "settings": report["settings"]}
    notes = {
        "backbone": digest,
        "recipe": {**context.recipe.to_dict(), **recipe},
        "dataset": facts["dataset"] | {"fitted": sha256(folder.read(FITTED))},
        "metrics": {},
        "parent": None if champion is None else champion["digest"],
        "job": context.job.id,
    }
    folder.write_json(NOTES, notes)
    try:
        _run(context, FitProcess(folder.path, LORA_PROOF), tell, _PROOF_S)
    except FitFailed as error:
        raise ExportFailed(f"the fitted LoRA was not published: {error}") from error
    backbone.remove()


def _hand_over(context: JobContext, budget_s: float, least_share: float, head: bool) -> None:
    """Write what the fit's processes read; the task last, once for all attempts."""
    folder, settings = context.folder, settings_of(context.recipe)
    place, _ = find_pretrained(backbone_of(context))
    vectors, _ = context.vectors()
    corpus, parts = context.corpus(), context.parts()
    standing = backbone_of(context)
    files = load_files({"tokenizer.json": standing.files["tokenizer.json"]}, context.registry.fetch)
    tokenizer = Tokenizer.from_bytes(files["tokenizer.json"], min(standing.max_tokens, settings.max_tokens))
    ids = tokenizer.encode(fit_texts(corpus, parts), truncate=True).ids
    folder.write_arrays(TOKENS, token_arrays(ids))
    folder.write(PROBLEM, problem.to_bytes(fit_problem(corpus, parts, vectors)))
    task = LoraTask(source=place, settings=settings, budget_s=budget_s, least_share=least_share, head=head)
    folder.write_json(TASK, task.to_dict())


def _run(context: JobContext, process: FitProcess, tell: Tell, budget_s: float) -> None:
    context.keeper.keep(process)
    try:
        process.wait(tell, context.check_cancel, budget_s)
    finally:
        context.keeper.keep(None)


def _told(told: Mapping[str, Any], tell: Tell) -> None:
    if told.get("checkpoint"):
        crash_point("fit.checkpoint")
    tell(told)
