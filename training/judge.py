"""The steps of a retrain that judge: every contender scored on rows that none was fitted on, and the gate's verdict."""

from typing import Any

import numpy as np

from monitoring.gate import Contender, judge
from training.contenders import contenders
from training.data import gate_items
from training.evaluation import generic_parts, groups_of, item_scores, leakage_of
from training.steps import JobContext


def evaluate(context: JobContext) -> None:
    """Score candidate, champion and base on the same rows, which neither candidate nor champion was fitted on."""
    context.tell("evaluate", 0.0, "scoring candidate, champion and base")
    items = gate_items(context.corpus(), context.parts())
    arrays: dict[str, Any] = {"clusters": items.clusters}
    means: dict[str, dict[str, float]] = {}
    calibrations: dict[str, Any] = {}
    for name, model in contenders(context).items():
        scores, calibrations[name] = item_scores(context.corpus(), context.parts(), items, model.texts)
        arrays[f"generic.{name}"], _ = generic_parts(model.generic, context.recipe)
        means[name] = {metric: round(float(values.mean()), 5) for metric, values in scores.items()}
        arrays |= {f"scores.{name}.{metric}": values for metric, values in scores.items()}
    context.folder.write_arrays("scores.safetensors", arrays)
    context.folder.write_json("means.json", means)
    facts = {"evaluation": means, "calibration": calibrations}
    context.tell("evaluate", 1.0, f"{len(items.queries)} gate items", facts)


def gate(context: JobContext) -> None:
    """Ask the gate for its verdict."""
    arrays = context.folder.read_arrays("scores.safetensors")
    compared: dict[str, Contender] = {}
    for name in ("candidate", "base", "champion"):
        prefix = f"scores.{name}."
        scores = {key.removeprefix(prefix): np.asarray(a) for key, a in arrays.items() if key.startswith(prefix)}
        if scores:
            compared[name] = Contender(name, scores, arrays.get(f"generic.{name}"))
    verdict = judge(
        compared["candidate"],
        compared.get("champion"),
        compared["base"],
        settings=context.recipe.gate_settings(),
        clusters=arrays["clusters"],
        groups=groups_of(gate_items(context.corpus(), context.parts())),
        leakage=leakage_of(context.corpus(), context.parts(), context.recipe),
    )
    context.folder.write_json("verdict.json", verdict.to_json())
    context.tell("gate", 1.0, f"verdict: {verdict.outcome.value}")
