"""The step of a retrain that fits: a head, a LoRA, or a head and then, where it pays, a LoRA."""

from collections.abc import Callable, Mapping
from typing import Any

from monitoring.recipe import Recipe
from training import auto, problem
from training.child import FitProcess
from training.crash import crash_point
from training.data import fit_problem
from training.errors import FitFailed
from training.extra_texts import POOL, with_wordings
from training.lora_task import TASK, LoraDeclined, settings_of
from training.lora_worker import fit_lora
from training.pretrained import PretrainedMissing
from training.progress import thinned
from training.steps import JobContext

HEAD = "head.json"
"""Report of the head's fit; its weights are in `weights.safetensors`."""
FIT = "fit.json"
"""Report of what was kept, with `method` and, in `why`, the reason."""
# Under "auto" a head's fit counts as this share of the step.
_HEAD_SHARE = 0.2
# Deaths of the worker over a job after which "auto" stays with the head it has.
_MAX_DEATHS = 2
# "auto" tries no LoRA that the budget cuts to less than this share of its steps.
_LEAST_SHARE = 0.5


def fit(context: JobContext) -> None:
    """Fit what the recipe's method says, in processes of its own.

    Raises:
        FitFailed: The fit failed; under "auto", that of the head.
        PretrainedMissing: The method is "lora", and the model it starts from is not on this machine.
        LoraDeclined: The method is "lora", and the time budget holds next to none of its steps.
    """
    folder, recipe = context.folder, context.recipe
    if not folder.has(FIT):
        context.tell("fit", 0.0, "starting the fit")
        folder.write_json(FIT, _fitted(context, recipe))
    report = folder.read_json(FIT)
    names = ("method", "why", "base_score", "select_score", "best_step", "alpha", "stopped", "seconds")
    # `extra`: what was fitted beside the rows, and what each of it added.
    kept = {name: report[name] for name in names} | {"extra": report.get("extra", {})}
    text = f"{kept['method']}: selection score {kept['base_score']:.4f} -> {kept['select_score']:.4f}"
    context.tell("fit", 1.0, text, {"fit": kept, "curves": thinned(report)})


def _fitted(context: JobContext, recipe: Recipe) -> dict[str, Any]:
    """The report of what is kept."""
    asked = {"text": f'the recipe asks for the method "{recipe.method}"'}
    if recipe.method == "lora":
        report = fit_lora(context, recipe.time_budget_s, 0.0, False, _teller(context, "LoRA", 0.0, 1.0))
        return {**report, "method": "lora", "why": asked}
    head = _head(context, recipe)
    if recipe.method == "head":
        return {**head, "method": "head", "why": asked}
    return _better(context, recipe, head)


def _head(context: JobContext, recipe: Recipe) -> dict[str, Any]:
    """Fit the head in a child process; its report."""
    folder = context.folder
    if not folder.has(HEAD):
        vectors, generic = context.vectors()
        task = fit_problem(context.corpus(), context.parts(), vectors)
        if extra := context.extra():
            task = with_wordings(task, extra)
            folder.write_arrays(POOL, {"texts": extra["pool"]})
        folder.write_arrays("generic.safetensors", {"judged": generic})
        folder.write("problem.safetensors", problem.to_bytes(task))
        process = FitProcess(folder.path)
        context.keeper.keep(process)
        tell = _teller(context, "head", 0.0, _HEAD_SHARE if recipe.method == "auto" else 1.0)
        try:
            process.wait(tell, context.check_cancel, recipe.time_budget_s)
        finally:
            context.keeper.keep(None)
    report: dict[str, Any] = folder.read_json(HEAD)
    return report


def _better(context: JobContext, recipe: Recipe, head: dict[str, Any]) -> dict[str, Any]:
    """The report of the head, or of a LoRA that is better; whatever happens to a LoRA, the head stays."""
    ruling = _worth_trying(context, recipe, head)
    if not ruling.yes:
        return {**head, "method": "head", "why": ruling.to_json()}
    budget, tell = ruling.figures["budget_s"], _teller(context, "LoRA", _HEAD_SHARE, 1.0)
    try:
        report = fit_lora(context, budget, _LEAST_SHARE, True, tell)
    except (LoraDeclined, PretrainedMissing) as error:
        why = {**ruling.to_json(), "text": f"no LoRA was fitted: {error}"}
        return {**head, "method": "head", "why": why}
    except FitFailed as error:
        why = {**ruling.to_json(), "text": f"the LoRA's fit failed, and the head was kept: {error}"}
        return {**head, "method": "head", "why": why}
    kept = auto.keeps_lora(report["against_head"])
    why = {**ruling.to_json(), **report["plan"], **kept.to_json(), "lora_s": report["seconds"]}
    return {**(report if kept.yes else head), "method": "lora" if kept.yes else "head", "why": why}


def _worth_trying(context: JobContext, recipe: Recipe, head: Mapping[str, Any]) -> auto.Ruling:
    settings, rows = settings_of(recipe), context.snapshot["rows"]
    encoded = context.folder.read_json("encode.json")
    steps = settings.steps_for(rows["fit"])
    texts = min(settings.batch_size, rows["fit"]) * (1 if context.corpus().labels else 2)
    scored = sum(min(settings.scored_rows, rows[part]) for part in ("fit", "select"))
    least = auto.least_seconds(steps, texts, scored, settings.evaluations, encoded["lora_text_s"])
    ruling = auto.worth_trying(
        rows=rows["fit"],
        items=rows["select"],
        head_score=head["select_score"],
        least_s=least,
        lora_budget_s=recipe.lora_budget_s or 0.0,
        left_s=recipe.time_budget_s - head["seconds"],
    )
    if ruling.yes and context.folder.has(TASK) and context.job.deaths >= _MAX_DEATHS:
        return auto.Ruling(False, "the worker died over the LoRA's fit, and the head was kept", ruling.figures)
    return ruling


def _teller(context: JobContext, what: str, low: float, high: float) -> Callable[[Mapping[str, Any]], None]:
    """Tells the job of a fit's progress, as so much of the step."""

    def tell(told: Mapping[str, Any]) -> None:
        crash_point("fit.during")
        score = "" if told["score"] is None else f", selection score {told['score']:.4f}"
        share = low + (high - low) * told["step"] / told["steps"]
        context.tell_sometimes("fit", share, f"{what}: step {told['step']} of {told['steps']}{score}")

    return tell
