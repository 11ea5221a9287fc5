"""The steps of a retrain that judge: every contender scored on rows that none was fitted on, and the gate's verdict."""

from typing import Any

from registry import datasets, gate_uses
from registry.row import Row
from training.contenders import contenders
from training.evaluation import leakage_of
from training.evaluation_document import FILE, Evaluation
from training.evaluation_run import measure, verdict_of
from training.gate_set import gate_set_of
from training.steps import JobContext


def evaluate(context: JobContext) -> None:
    """Score candidate, champion and base on rows fitted by neither candidate nor, as far as it says, champion."""
    context.tell("evaluate", 0.0, "scoring candidate, champion and base")
    corpus, parts, recipe = context.corpus(), context.parts(), context.recipe

    def tell(share: float, message: str) -> None:
        context.check_cancel()
        context.tell_sometimes("evaluate", share, message)

    measured = measure(corpus, _rows(context), parts, contenders(context), recipe, tell)
    document = measured.document(corpus, parts, recipe)
    means = {
        name: {metric: round(found["mean"], 5) for metric, found in metrics.items()}
        for name, metrics in document["metrics"].items()
    }
    context.folder.write_arrays("scores.safetensors", measured.arrays())
    context.folder.write_json(FILE, document)
    context.folder.write_json("means.json", means)
    facts = {"evaluation": means, "calibration": _calibration(document)}
    context.tell("evaluate", 1.0, f"{len(measured.items.queries)} gate items", facts)


def gate(context: JobContext) -> None:
    """Ask the gate for its verdict; that these rows were judged on once more is entered first."""
    parts, dataset = context.parts(), context.snapshot["dataset"]
    judged = gate_set_of(_rows(context), parts.judged)
    with context.registry.holding(context.job) as session:
        use = gate_uses.claim(
            session,
            judged,
            key=context.job.id,
            subject=f"{dataset['name']}@{dataset['revision']}",
            by=context.job.id,
        )
    arrays = context.folder.read_arrays("scores.safetensors")
    recipe = context.recipe
    verdict = verdict_of(arrays, recipe, leakage_of(context.corpus(), parts, recipe), use)
    context.folder.write_json("verdict.json", verdict.to_json())
    context.tell("gate", 1.0, f"verdict: {verdict.outcome.value}")


def _rows(context: JobContext) -> list[Row]:
    with context.registry.reading() as session:
        dataset = datasets.get(session, context.job.dataset, context.job.revision)
    return datasets.load_rows(context.registry.artifacts, dataset)


def _calibration(document: Evaluation) -> dict[str, Any]:
    """The few numbers of calibration that a job's metrics hold, by contender."""
    return {
        name: {
            "temperature": round(found["temperature"], 4),
            "ece_before": round(found["before"]["ece"], 5),
            "ece_after": round(found["after"]["ece"], 5),
        }
        for name, found in (document["calibration"] or {}).items()
    }
