"""Fitting a residual head on cached base vectors: seconds on a CPU, and the best weights on unseen rows are kept."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monitoring.general import similarity_correlation
from monitoring.recipe import Recipe
from training.errors import FitFailed
from training.fit_watch import Watch
from training.modules import ResidualHead
from training.objective import Objective
from training.problem import LabelledProblem, Problem, Vectors
from training.progress import Course
from training.replay import replayed
from training.selection import Selector
from training.shares import SHARES, largest_good
from training.temperature import LEARNING_RATE, Temperature
from training.weights import HeadWeights

EVALUATIONS = 12
MAX_INTERVAL = 40
WARM_UP = 20
AVERAGING = 0.95
GENERAL = 0.9
"""Least rank correlation of the cosines among generic texts with the base's, of a share that is chosen freely."""
FEW_ROWS = 25
"""Rows of a label, on average, below which a labelled problem counts as small."""

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The outcome of a fit: the weights to publish, what happened (plain JSON values), and the weights that were scored
    on the selection rows: the same, unless the head was then fitted once more on those rows too."""

    weights: HeadWeights
    report: dict[str, Any]
    scored: HeadWeights


@contextmanager
def _half_products() -> Iterator[None]:
    """bf16 inside matrix products where the processor has it: half the time, and no score can tell."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@_half_products()
def fit_head(
    problem: Problem,
    recipe: Recipe,
    progress: Progress,
    *,
    replay: Vectors | None = None,
    generic: Vectors | None = None,
) -> Fitted:
    """Fit a head and restore its best state.

    AdamW with a warm-up and a cosine schedule (Loshchilov & Hutter, arXiv 1711.05101 and 1608.03983). What is scored
    and kept is a moving average of the weights (Polyak averaging), which is steadier than any single step. Every so
    many steps the selection score, the selection loss and the geometry are measured (`Course` and `Watch`); the fit
    ends when neither has been better for `patience` measurements, when the vectors have collapsed, at the last step,
    or when the time budget is spent. Then the share alpha of the residual is chosen on the same split and the generic
    texts, and the weights are scored once more; with `refit` the head is fitted again, on the selection rows too, for
    as many steps, and `select_score` stays that of the first fit.

    Same problem, recipe and machine, same weights.

    Args:
        problem: Base vectors and roles of the rows.
        recipe: How to fit, resolved.
        progress: Called at each measurement with {step, steps, loss, score, best}.
        replay: (r, d) float32 base vectors of texts on which the head shall stay near the base, beside directions
            drawn at random (recipe.replay).
        generic: (g, d) float32 base vectors on which collapse and generality are judged, none of them replayed. None:
            collapse is judged on the selection rows alone.

    Raises:
        FitFailed: The loss is not finite, or every state has collapsed.
        ValueError: The recipe is not resolved.
    """
    started = time.monotonic()
    selector = Selector(problem)
    base_score = selector.score(lambda vectors: vectors)
    progress({"step": 0, "steps": recipe.steps, "loss": None, "score": base_score, "best": None})

    steps = _Steps(problem, recipe, replay)
    watch = Watch(problem, recipe.temperature or 0.1, recipe.gate_settings().geometry, generic)
    course = Course(recipe.patience, steps.averaged())
    every = max(1, min(MAX_INTERVAL, recipe.steps // EVALUATIONS))
    # Of the residual at least this share is kept: what collapses with that much of it collapses in any case.
    least = min(SHARES) if recipe.alpha is None else recipe.alpha
    stopped = "steps"
    for step in range(1, recipe.steps + 1):
        loss = steps.take(step)
        out_of_time = time.monotonic() - started > recipe.time_budget_s
        if step % every and step < recipe.steps and not out_of_time:
            continue
        weights = steps.averaged()
        measured = watch.measure(weights.apply)
        items = selector.items(weights.apply)
        score = float(items.mean())
        reasons = watch.collapse(weights.scaled(least).apply)
        course.add(step, items, measured, weights, reasons)
        progress({"step": step, "steps": recipe.steps, "loss": loss, "score": score, "best": course.best_score})
        if reasons or out_of_time or course.exhausted:
            stopped = "collapse" if reasons else "time" if out_of_time else "patience"
            break

    if course.reasons and not course.best_step:
        raise FitFailed(
            f"the vectors collapsed from the start: {course.reasons[0]}; lower learning_rate, or set replay or identity"
        )
    alpha, final_score = _choose_alpha(course.best_weights, recipe, selector, generic)
    kept = course.best_weights
    if recipe.refit and course.best_step:
        kept = _refitted(problem, recipe, replay, course.best_step)
    report = {
        "base_score": round(base_score, 5),
        "select_score": round(final_score, 5),
        "best_step": course.best_step,
        "steps_run": course.curve[-1][0],
        "stopped": stopped,
        "reasons": course.reasons,
        "alpha": alpha,
        "refitted": kept is not course.best_weights,
        "dropout": dropout_of(problem, recipe),
        "temperature": round(steps.temperature_at(course.curve[-1][0]), 5),
        "curve": [list(point) for point in course.curve],
        "geometry": course.geometry(watch.base),
        "seconds": round(time.monotonic() - started, 2),
    }
    return Fitted(kept.scaled(alpha), report, course.best_weights.scaled(alpha))


class _Steps:
    """The optimiser's side of a fit: takes steps and keeps the average of the weights."""

    def __init__(self, problem: Problem, recipe: Recipe, replay: Vectors | None) -> None:
        if recipe.temperature is None or recipe.learning_rate is None:
            raise ValueError("the recipe must be resolved first")
        torch.manual_seed(recipe.seed)
        torch.use_deterministic_algorithms(True)
        self._steps = recipe.steps
        self._head = ResidualHead.of_recipe(problem.vectors.shape[1], recipe, dropout_of(problem, recipe))
        self._temperature = Temperature(
            recipe.temperature, recipe.temperature_schedule, recipe.temperature_end, recipe.steps
        )
        parameters = list(self._head.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._rates = [recipe.learning_rate, recipe.learning_rate]
        if learned := list(self._temperature.parameters()):
            groups.append({"params": learned, "weight_decay": 0.0})
            self._rates.append(LEARNING_RATE)
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        self._average = {name: value.detach().clone() for name, value in self._head.state_dict().items()}
        self._scored = ResidualHead.of_recipe(problem.vectors.shape[1], recipe)
        kept = replayed(problem.vectors.shape[1], recipe.seed, replay) if recipe.replay else None
        self._objective = Objective(problem, recipe, self._head, self._temperature, kept)

    def take(self, step: int) -> float:
        """One step, counted from 1; its loss. Raises FitFailed where that is not finite."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * _schedule(step, self._steps)
        loss = self._objective.loss(step)
        if not bool(torch.isfinite(loss)):
            raise FitFailed(f"the loss was not finite at step {step}; lower learning_rate or raise temperature")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._temperature.clamp()
        _blend(self._average, self._head, min(AVERAGING, step / (step + 10)))
        return float(loss.detach())

    def averaged(self) -> HeadWeights:
        """The average of the weights so far."""
        self._scored.load_state_dict(self._average)
        return self._scored.weights()

    def temperature_at(self, step: int) -> float:
        """The temperature of a step; a learned one's is the present one."""
        return float(torch.as_tensor(self._temperature.at(step)).detach())


def dropout_of(problem: Problem, recipe: Recipe) -> float:
    """The recipe's dropout, or what suits the problem: the fewer rows a label has, the sooner a head knows them."""
    if recipe.dropout is not None:
        return recipe.dropout
    few = isinstance(problem, LabelledProblem) and len(problem.fit) < FEW_ROWS * len(np.unique(problem.fit_labels))
    return 0.5 if few else 0.4


def _refitted(problem: Problem, recipe: Recipe, replay: Vectors | None, steps: int) -> HeadWeights:
    """The head after so many steps of the same schedule on the rows of the fit and the selection together."""

    def both(first: str, second: str) -> Any:
        return np.concatenate([getattr(problem, first), getattr(problem, second)])

    whole: Problem
    if isinstance(problem, LabelledProblem):
        labels = both("fit_labels", "select_labels")
        weights = problem.fit_weights
        if weights is not None:
            weights = np.concatenate([weights, np.ones(len(problem.select), np.float32)])
        whole = dataclasses.replace(problem, fit=both("fit", "select"), fit_labels=labels, fit_weights=weights)
    else:
        missing = np.full(len(problem.select_anchors), -1, np.int64)
        whole = dataclasses.replace(
            problem,
            fit_anchors=both("fit_anchors", "select_anchors"),
            fit_positives=both("fit_positives", "select_positives"),
            fit_negatives=np.concatenate([problem.fit_negatives, missing]),
        )
    again = _Steps(whole, recipe, replay)
    for step in range(1, steps + 1):
        again.take(step)
    return again.averaged()


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to 0."""
    warm = min(WARM_UP, max(1, steps // 5))
    return min(1.0, step / warm) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))


def _blend(average: dict[str, Tensor], head: ResidualHead, keep: float) -> None:
    with torch.no_grad():
        for name, value in head.state_dict().items():
            average[name].lerp_(value, 1 - keep)


def _choose_alpha(
    weights: HeadWeights, recipe: Recipe, selector: Selector, generic: Vectors | None
) -> tuple[float, float]:
    """The share of the residual to keep, and its selection score.

    The largest share, since the fit was for the whole of it, whose score is within one standard error of the best
    one's (`training.shares`) and under which generic texts keep their order of similarities; where none does both,
    the best of those that keep it, and the smallest where none keeps it.
    """
    if recipe.alpha is not None:
        return recipe.alpha, float(selector.items(weights.scaled(recipe.alpha).apply).mean())
    general = [alpha for alpha in SHARES if generic is None or _keeps_general(weights.scaled(alpha), generic)]
    items = {alpha: selector.items(weights.scaled(alpha).apply) for alpha in general or SHARES[:1]}
    chosen = largest_good(items)
    return chosen, float(items[chosen].mean())


def _keeps_general(weights: HeadWeights, generic: Vectors) -> bool:
    return similarity_correlation(weights.apply(generic), generic, n=1).value >= GENERAL
