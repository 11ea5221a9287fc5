"""The course of a fit: every evaluation so far, the best state, and whether there is anything left to wait for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from monitoring.quality import Scores
from training.shares import within_one_error
from training.weights import HeadWeights

MAX_POINTS: Final = 64
_LOSS_GAIN = 1e-4


class Course:
    """Keeps the latest weights whose score is within one standard error of the best one's.

    A score on few rows is noisy, and the highest of many is more noise still, while a schedule that ends at rest brings
    the steadiest weights last: so the latest, unless scores have surely fallen since. A collapsed state is never kept.
    The fit is exhausted when for `patience` evaluations neither the score has risen nor the loss has fallen.

    Args:
        patience: Evaluations to wait.
        start: Weights of the head before the first step, which stay the best if nothing else can be kept.
    """

    def __init__(self, patience: int, start: HeadWeights) -> None:
        self._patience = patience
        self.best_weights, self.best_step, self.best_score = start, 0, -1.0
        self._best_items: Scores | None = None
        self.curve: list[tuple[int, float]] = []
        self.reasons: list[str] = []
        self._lowest_loss = math.inf
        self._better_at = 0
        self._measured: list[Mapping[str, float]] = []

    def add(
        self, step: int, items: Scores, measured: Mapping[str, float], weights: HeadWeights, reasons: Sequence[str]
    ) -> None:
        """Take note of an evaluation's scores (m,); `reasons` say why its state counts as collapsed, if it does."""
        score = float(items.mean())
        self.curve.append((step, round(score, 5)))
        self._measured.append(measured)
        self.reasons = list(reasons)
        if reasons:
            return
        loss = math.inf if math.isnan(measured["loss"]) else measured["loss"]
        if loss < self._lowest_loss - _LOSS_GAIN:
            self._lowest_loss, self._better_at = loss, len(self.curve)
        if self._best_items is None or score > self.best_score:
            self._best_items, self.best_score, self._better_at = items, score, len(self.curve)
        if within_one_error(self._best_items, items):
            self.best_weights, self.best_step = weights, step

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` evaluations brought nothing."""
        return len(self.curve) - self._better_at >= self._patience

    def geometry(self, base: Mapping[str, float]) -> dict[str, list[Any]]:
        """Every measure as a list, by name: the base's first (step 0), then each evaluation's; None where unknown."""
        rows = [base, *self._measured]
        steps: list[Any] = [0, *(step for step, _ in self.curve)]
        return {"step": steps} | {name: [_plain(row[name]) for row in rows] for name in base}


def _plain(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def thinned(report: Mapping[str, Any], most: int = MAX_POINTS) -> dict[str, list[Any]]:
    """The curves of a fit's report, small enough to be stored with the job: at most `most` points, evenly chosen, the
    first (the base, step 0), the best and the last among them.

    Returns:
        {"step": [...], "score": [...], "<measure>": [...]}, lists of one length; None where a value is unknown.
    """
    steps = [0, *(step for step, _ in report["curve"])]
    curves = {"step": steps, "score": [report["base_score"], *(score for _, score in report["curve"])]}
    curves |= {name: values for name, values in report.get("geometry", {}).items() if name != "step"}
    chosen = set(np.linspace(0, len(steps) - 1, min(len(steps), most - 1)).astype(int).tolist())
    if report["best_step"] in steps:
        chosen.add(steps.index(report["best_step"]))
    return {name: [values[place] for place in sorted(chosen)] for name, values in curves.items()}
