"""Whether probabilities mean what they say: calibration error, Brier score, and one temperature that mends them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from monitoring.arrays import IntArray
from monitoring.errors import VectorsRefused
from monitoring.predictions import Predictions
from monitoring.quality import Scores

BINS: Final = 15
TEMPERATURES: Final = (0.05, 20.0)
_LEAST_LOG: Final = -27.6
"""A probability of 1e-12, which stands for a label that the classifier does not know."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Items of like confidence: how many, their mean confidence, and the share of them that were right."""

    items: int
    confidence: float
    accuracy: float


def reliability(confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS, equal_mass: bool = True) -> list[Bin]:
    """The reliability diagram of items (m,): bins that hold items, from unsure to sure.

    Equal mass: edges are quantiles of the confidence, so equal confidences share a bin and the order of the items is
    of no matter. Equal width: (0, 1] in equal parts.

    Raises:
        VectorsRefused: No items, lengths that differ, or confidences outside [0, 1].
    """
    sure, right = _checked(confidence, correct)
    numbers = _bins_of(sure, bins, equal_mass)
    return [
        Bin(int(inside.sum()), float(sure[inside].mean()), float(right[inside].mean()))
        for inside in (numbers == number for number in np.unique(numbers))
    ]


def calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = BINS, equal_mass: bool = True) -> float:
    """ECE: the mean over items of how far their bin's accuracy lies from its confidence (Guo et al., ICML 2017).

    A few hundred items give an error above 0 even to perfect probabilities; compare only on the same items.

    Raises:
        VectorsRefused: As `reliability`.
    """
    found = reliability(confidence, correct, bins=bins, equal_mass=equal_mass)
    items = sum(part.items for part in found)
    return float(sum(part.items * abs(part.accuracy - part.confidence) for part in found) / items)


def brier_scores(predicted: Predictions, truth: Sequence[str]) -> Scores:
    """Brier's score of each item, sum over labels of (p - y)^2, in [0, 2]; lower is better (Brier 1950).

    A label the classifier does not know is one more label to which it gave 0.
    """
    codes = predicted.codes(truth)
    probabilities = np.exp(predicted.logs)
    right = np.where(codes >= 0, probabilities[np.arange(len(codes)), codes], 0.0)
    return np.asarray((probabilities**2).sum(axis=1) - 2 * right + 1, dtype=np.float64)


def calibration_scores(predicted: Predictions, truth: Sequence[str]) -> Scores:
    """1 - Brier / 2 of each item, in [0, 1], higher is better: the form in which the gate compares models."""
    return np.clip(1 - brier_scores(predicted, truth) / 2, 0.0, 1.0)


def log_losses(predicted: Predictions, truth: Sequence[str]) -> Scores:
    """Minus the logarithm of the right label's probability, for each item."""
    codes = predicted.codes(truth)
    found = np.where(codes >= 0, predicted.logs[np.arange(len(codes)), codes], _LEAST_LOG)
    return np.asarray(-np.maximum(found, _LEAST_LOG), dtype=np.float64)


def fit_temperature(predicted: Predictions, truth: Sequence[str]) -> float:
    """The temperature in [0.05, 20] with the least mean log-loss on items held out from the classifier's fit.

    The loss is convex in 1 / T, so a bounded search over log T finds its minimum. Items whose label the classifier
    does not know say nothing about it; without any other the temperature is 1.
    """
    from scipy.optimize import minimize_scalar

    codes = predicted.codes(truth)
    if not (codes >= 0).any():
        return 1.0
    known = Predictions(predicted.labels, predicted.logs[codes >= 0])
    right = codes[codes >= 0]

    def loss(log_temperature: float) -> float:
        logs = known.tempered(float(np.exp(log_temperature))).logs
        return float(-logs[np.arange(len(right)), right].mean())

    low, high = (float(np.log(bound)) for bound in TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well probabilities hold on some items, as one set of numbers.

    Attributes:
        ece, ece_equal_width: Calibration error with equal-mass and with equal-width bins.
        brier, log_loss: Means over items.
        accuracy, confidence: Share of items named right, and how sure the classifier was on average.
    """

    ece: float
    ece_equal_width: float
    brier: float
    log_loss: float
    accuracy: float
    confidence: float


def measure(predicted: Predictions, truth: Sequence[str]) -> Calibration:
    """Every number on items with right labels `truth` (m,).

    Raises:
        VectorsRefused: No items, or not one label for each.
    """
    sure, right = predicted.confidence(), predicted.correct(truth)
    return Calibration(
        ece=calibration_error(sure, right),
        ece_equal_width=calibration_error(sure, right, equal_mass=False),
        brier=float(brier_scores(predicted, truth).mean()),
        log_loss=float(log_losses(predicted, truth).mean()),
        accuracy=float(right.mean()),
        confidence=float(sure.mean()),
    )


@dataclass(frozen=True, eq=False)
class Scaled:
    """Probabilities before and after temperature scaling, measured on items that the temperature was not fitted on.

    Attributes:
        temperature: Above 1 where the classifier was too sure.
        before, after: Calibration of the judged items.
        predicted: The judged items' probabilities after scaling.
        items: (m,) `calibration_scores` after scaling.
        curve: The reliability diagram after scaling.
    """

    temperature: float
    before: Calibration
    after: Calibration
    predicted: Predictions
    items: Scores
    curve: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report: temperature, both measures, and the reliability diagram."""
        return {
            "temperature": self.temperature,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "curve": [asdict(part) for part in self.curve],
        }


def scale(
    held_out: Predictions, held_out_truth: Sequence[str], judged: Predictions, judged_truth: Sequence[str]
) -> Scaled:
    """Fit a temperature on held-out items of the same classifier and measure the judged ones before and after.

    Raises:
        VectorsRefused: The two name different labels, or items and labels differ in number.
    """
    if held_out.labels != judged.labels:
        raise VectorsRefused("held-out and judged items must come from one classifier")
    temperature = fit_temperature(held_out, held_out_truth)
    after = judged.tempered(temperature)
    return Scaled(
        temperature=temperature,
        before=measure(judged, judged_truth),
        after=measure(after, judged_truth),
        predicted=after,
        items=calibration_scores(after, judged_truth),
        curve=tuple(reliability(after.confidence(), after.correct(judged_truth))),
    )


def _checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[Scores, Scores]:
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not len(sure):
        raise VectorsRefused("calibration needs one confidence and one outcome for each of at least one item")
    if not ((sure >= -1e-9) & (sure <= 1 + 1e-9)).all() or not np.isfinite(right).all():
        raise VectorsRefused("confidences must lie in [0, 1] and outcomes must be numbers")
    return sure, right


def _bins_of(sure: Scores, bins: int, equal_mass: bool) -> IntArray:
    """(m,) the bin of each item; a bin holds what lies above its lower edge, up to and with its upper one."""
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.quantile(sure, shares, method="inverted_cdf") if equal_mass else shares
    return np.searchsorted(edges, sure, side="left").astype(np.int64)
