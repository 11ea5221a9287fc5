"""How often the gate errs, on simulated data: as seldom as it says without an effect; never on permuted labels."""

import numpy as np
import pytest

from monitoring.calibration import scale
from monitoring.gate import Contender, GateSettings, GuardSet, judge
from monitoring.predictions import knn_predictions
from monitoring.quality import label_scores
from monitoring.significance import resample


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


GENERIC = unit(np.random.default_rng(0).normal(size=(40, 16)))
RULES = GateSettings(min_effect=0.0, resamples=1_000)
ITEMS = 300


def pair(rng: np.random.Generator, gain: float = 0.0, loss: float = 0.0) -> tuple[Contender, Contender]:
    """Candidate and base whose true nDCG differs by `gain`, and whose true accuracy by `loss`."""
    quality = rng.beta(5, 2, ITEMS)
    scores = []
    for better, worse in ((gain, loss), (0.0, 0.0)):
        scores.append(
            {
                "ndcg_at_10": quality + better + 0.1 * rng.normal(size=ITEMS),
                "knn_accuracy": np.where(rng.random(ITEMS) < 0.9 - worse, 1.0, 0.0),
                "robustness": 0.9 * quality + 0.1 * rng.normal(size=ITEMS),
                "calibration": 0.8 + 0.1 * rng.normal(size=ITEMS),
            }
        )
    return Contender("candidate", scores[0], GENERIC), Contender("base", scores[1], GENERIC)


def at_most(share: float, runs: int) -> float:
    """What a count of errors may come to: its mean and 3 standard deviations."""
    return float(runs * share + 3 * np.sqrt(runs * share * (1 - share)))


def test_without_an_effect_it_passes_as_seldom_as_it_says() -> None:
    """The primary's one-sided level is 2.5 %; guards, with a wide margin here, rarely stand in the way."""
    rng = np.random.default_rng(1)
    wide = GateSettings(min_effect=0.0, resamples=1_000, margin=0.2, robustness_margin=0.2, calibration_margin=0.2)
    passed = 0
    for _ in range(500):
        candidate, base = pair(rng)
        passed += judge(candidate, None, base, settings=wide).passed
    assert passed <= at_most(0.025, 500), f"{passed} of 500"
    assert passed > 0, "the bound is near, so that the test could fail"


def test_a_guard_that_loses_its_whole_margin_passes_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(2)
    passed = 0
    for _ in range(300):
        candidate, base = pair(rng, gain=0.1, loss=RULES.margin_for(ITEMS))
        passed += judge(candidate, None, base, settings=RULES).passed
    assert passed <= at_most(0.05, 300), f"{passed} of 300"


def test_ten_candidates_on_one_set_pass_together_as_seldom_as_one() -> None:
    """Without the count of uses, one of ten candidates that are no better passes every fifth time."""
    rng = np.random.default_rng(3)
    counted = uncounted = 0
    for _ in range(150):
        quality = rng.beta(5, 2, ITEMS)
        theirs = quality + 0.1 * rng.normal(size=ITEMS)
        base = Contender("base", {"ndcg_at_10": theirs, "knn_accuracy": np.ones(ITEMS)}, GENERIC)
        wins = np.zeros(2)
        for use in range(1, 11):
            ours = quality + 0.1 * rng.normal(size=ITEMS)
            candidate = Contender("candidate", {"ndcg_at_10": ours, "knn_accuracy": np.ones(ITEMS)}, GENERIC)
            rules = GateSettings(min_effect=0.0, resamples=4_000)
            low = resample(ours - theirs, n=500).interval(0.95).low
            # What is far from passing on its own is not judged: it saves most of the time.
            near = low > -0.01
            wins += [near and judge(candidate, None, base, settings=rules, use=use).passed, low > 0]
        counted += wins[0] > 0
        uncounted += wins[1] > 0
    assert counted <= at_most(0.025, 150), f"{counted} of 150"
    assert uncounted > at_most(0.025, 150)


def task(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors and labels of a task whose classes lie along few directions, and the generic rows' vectors.

    The vectors vary alike in every direction, so that labels are the only way to know which directions matter.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 4)) @ rng.normal(size=(4, 24))
    labels = rng.integers(0, 8, 2600)
    raw = centres[labels] + 1.5 * rng.normal(size=(2600, 24))
    raw -= raw.mean(axis=0)
    left, _, right = np.linalg.svd(raw, full_matrices=False)
    return unit(left @ right), labels, unit(rng.normal(size=(150, 24)))


def between(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The covariance (d, d) of the class means, scaled so that its largest value is 1.2."""
    means = np.stack([x[labels == label].mean(axis=0) for label in np.unique(labels)])
    means -= means.mean(axis=0)
    spread = means.T @ means
    return 1.2 * spread / np.linalg.norm(spread, 2)


def stretched(vectors: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """A linear residual head."""
    return unit(vectors + vectors @ spread)


@pytest.mark.parametrize("permuted", [True, False])
def test_permuted_labels_never_pass_and_right_ones_do(permuted: bool) -> None:
    passed = 0
    for seed in range(20):
        x, labels, generic = task(seed)
        fit, select, gate = np.split(np.arange(2600), [900, 1200])
        seen = np.random.default_rng(seed).permutation(labels[fit]) if permuted else labels[fit]
        spread = between(x[fit], seen)
        names = labels.astype(str).tolist()
        index, judged, held_out = ([names[row] for row in rows] for rows in (fit, gate, select))
        contenders = {}
        for name, share in (("base", 0.0), ("candidate", 1.0)):
            vectors = stretched(x, share * spread)
            scores = label_scores(vectors[fit], index, vectors[gate], judged)
            held = knn_predictions(vectors[fit], index, vectors[select])
            predicted = knn_predictions(vectors[fit], index, vectors[gate])
            scores["calibration"] = scale(held, held_out, predicted, judged).items
            contenders[name] = Contender(name, scores, stretched(generic, share * spread))
        passed += judge(
            contenders["candidate"],
            None,
            contenders["base"],
            settings=GateSettings(resamples=2_000),
            groups={"label": judged},
            guard_sets=[GuardSet("general", {"base": resample(np.zeros(200))}, 0.01)],
        ).passed
    assert passed == 0 if permuted else passed >= 15, f"{passed} of 20 passed"
