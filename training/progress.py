"""The course of a fit: every evaluation so far, the best state, and whether there is anything left to wait for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from training.weights import HeadWeights

_LOSS_GAIN = 1e-4


class Course:
    """Keeps the best weights: those with the best score, of equal ones those with the lowest loss on unseen rows.

    A collapsed state is never the best. The fit is exhausted when for `patience` evaluations neither the score has
    risen nor the loss has fallen: a score on few rows stands still for a while before it rises.

    Args:
        patience: Evaluations to wait.
        start: Weights of the head before the first step, which stay the best if nothing else can be kept.
    """

    def __init__(self, patience: int, start: HeadWeights) -> None:
        self._patience = patience
        self.best_weights, self.best_step, self.best_score = start, 0, -1.0
        self.curve: list[tuple[int, float]] = []
        self.reasons: list[str] = []
        self._loss_of_best = math.inf
        self._lowest_loss = math.inf
        self._better_at = 0
        self._measured: list[Mapping[str, float]] = []

    def add(
        self, step: int, score: float, measured: Mapping[str, float], weights: HeadWeights, reasons: Sequence[str]
    ) -> None:
        """Take note of an evaluation; `reasons` say why its state counts as collapsed, if it does."""
        self.curve.append((step, round(score, 5)))
        self._measured.append(measured)
        self.reasons = list(reasons)
        if reasons:
            return
        loss = math.inf if math.isnan(measured["loss"]) else measured["loss"]
        if score > self.best_score:
            self._better_at = len(self.curve)
        if loss < self._lowest_loss - _LOSS_GAIN:
            self._lowest_loss, self._better_at = loss, len(self.curve)
        if (score, -loss) > (self.best_score, -self._loss_of_best):
            self.best_weights, self.best_step, self.best_score, self._loss_of_best = weights, step, score, loss

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
