"""Calibration error and Brier score against plain references, and a temperature that is known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from monitoring import calibration
from monitoring.errors import VectorsRefused
from monitoring.predictions import Predictions

LABELS = ("a", "b", "c", "d")


def drawn(seed: int, n: int, temperature: float = 1.0) -> tuple[Predictions, list[str]]:
    """n items with labels drawn from known probabilities, told with logits multiplied by a temperature."""
    rng = np.random.default_rng(seed)
    honest = Predictions.of_logits(LABELS, 2 * rng.normal(size=(n, len(LABELS))))
    truth = [LABELS[rng.choice(len(LABELS), p=p / p.sum())] for p in np.exp(honest.logs)]
    return Predictions.of_logits(LABELS, honest.logs * temperature), truth


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 200), bins=st.integers(1, 20), equal_mass=st.booleans())
def test_the_error_is_the_plain_sum_over_bins(seed: int, n: int, bins: int, equal_mass: bool) -> None:
    rng = np.random.default_rng(seed)
    sure, right = np.round(rng.random(n), 2), (rng.random(n) < 0.5).astype(float)
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.quantile(sure, shares, method="inverted_cdf") if equal_mass else shares
    expected = 0.0
    for low, high in zip([-1.0, *edges], [*edges, 2.0], strict=True):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    found = calibration.calibration_error(sure, right, bins=bins, equal_mass=equal_mass)
    assert found == pytest.approx(expected)
    order = rng.permutation(n)
    shuffled = calibration.calibration_error(sure[order], right[order], bins=bins, equal_mass=equal_mass)
    assert shuffled == pytest.approx(found)


def test_bins_of_equal_mass_hold_alike_many_items() -> None:
    rng = np.random.default_rng(0)
    found = calibration.reliability(rng.random(1500), rng.random(1500) < 0.5)
    assert [part.items for part in found] == [100] * 15
    assert [part.confidence for part in found] == sorted(part.confidence for part in found)


def test_brier_and_log_loss_are_sklearns() -> None:
    predicted, truth = drawn(1, 400)
    p = np.exp(predicted.logs)
    brier = brier_score_loss(truth, p, labels=list(LABELS), scale_by_half=False)
    assert calibration.brier_scores(predicted, truth).mean() == pytest.approx(brier)
    assert calibration.log_losses(predicted, truth).mean() == pytest.approx(log_loss(truth, p, labels=list(LABELS)))
    half = calibration.calibration_scores(predicted, truth)
    assert ((half >= 0) & (half <= 1)).all()
    assert half.mean() == pytest.approx(1 - brier / 2)


def test_a_label_the_classifier_does_not_know_counts_as_wrong() -> None:
    sure = Predictions.of_logits(("a", "b"), [[50.0, 0.0]])
    assert calibration.brier_scores(sure, ["z"]).tolist() == pytest.approx([2.0])
    assert calibration.brier_scores(sure, ["a"]).tolist() == pytest.approx([0.0])
    assert calibration.log_losses(sure, ["z"])[0] == pytest.approx(27.6)
    assert calibration.fit_temperature(sure, ["z"]) == 1.0


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    held, held_truth = drawn(2, 4000, temperature)
    judged, truth = drawn(3, 4000, temperature)
    found = calibration.scale(held, held_truth, judged, truth)
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    assert found.after.ece < 0.03, "bins of 267 items err by about 0.02 even when all is right"
    assert found.after.log_loss <= found.before.log_loss + 1e-3
    assert found.after.accuracy == found.before.accuracy, "a temperature changes no ranking"
    if temperature != 1.0:
        assert found.after.ece < found.before.ece / 3
        assert found.after.brier < found.before.brier
    assert found.items.shape == (4000,)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["after"]["ece"] == found.after.ece
    assert sum(part["items"] for part in told["curve"]) == 4000


def test_the_loss_is_least_at_the_temperature_found() -> None:
    predicted, truth = drawn(4, 500, 1.7)
    best = calibration.fit_temperature(predicted, truth)

    def loss(at: float) -> float:
        return float(calibration.log_losses(predicted.tempered(at), truth).mean())

    assert loss(best) <= min(loss(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))
    low, high = calibration.TEMPERATURES
    assert low <= calibration.fit_temperature(Predictions.of_logits(("a", "b"), [[1.0, 0.0]]), ["b"]) <= high


def test_what_cannot_be_measured_is_refused() -> None:
    predicted, truth = drawn(5, 10)
    with pytest.raises(VectorsRefused, match="one confidence"):
        calibration.calibration_error([], [])
    with pytest.raises(VectorsRefused, match=r"\[0, 1\]"):
        calibration.calibration_error([1.5], [1.0])
    with pytest.raises(VectorsRefused, match="one classifier"):
        calibration.scale(predicted, truth, Predictions.of_logits(("a",), [[0.0]]), ["a"])
