"""Labels that are doubted: how much each row counts in the fit, and the problem without the doubted ones.

A row may say how likely its label is right (`Row.confidence`). Such rows are never held out (registry/splits.py): they
neither choose nor judge, and no other row is searched for among them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from registry.row import Row
from training.problem import LabelledProblem, Weights


def weights_of(rows: Sequence[Row]) -> Weights:
    """(n,) float32: each row's confidence in its label, 1 where it says none."""
    return np.array([1.0 if row.confidence is None else row.confidence for row in rows], np.float32)


def without_doubted(problem: LabelledProblem) -> LabelledProblem | None:
    """The problem without its doubted rows; None where none is doubted, or the others are too few to fit on."""
    sure = problem.sure
    labels = problem.fit_labels[sure]
    if sure.all() or len(np.unique(labels)) < 2 or np.bincount(labels).max() < 2:
        return None
    return dataclasses.replace(problem, fit=problem.fit[sure], fit_labels=labels, fit_weights=None)


def doubted(problem: LabelledProblem) -> dict[str, Any]:
    """How many rows are doubted, and how many of their labels are right if the confidences are: plain JSON values."""
    weights = problem.weights()[~problem.sure]
    mean = round(float(weights.mean()), 4) if len(weights) else None
    return {"rows": len(weights), "expected_precision": mean}
