"""How often the gate errs, on simulated data: as seldom as it says without an effect; never on permuted labels."""

import numpy as np
import pytest
from scipy.special import ndtri

from monitoring.calibration import scale
from monitoring.gate import Contender, GateSettings, GuardSet, judge
from monitoring.leakage import find_leakage
from monitoring.predictions import knn_predictions
from monitoring.quality import label_scores
from monitoring.retrieval import hits_by_label, ndcg
from monitoring.robustness import robustness
from monitoring.significance import Resampled, resample, spent_level


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


def nearly(found: Resampled, use: int) -> bool:
    """Whether a primary might pass at this use. What lies a whole standard error below is not judged: it saves most
    of the time."""
    return found.value > (-ndtri(spent_level(0.05, use) / 2) - 1) * found.draws.std()


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
            found = resample(ours - theirs, n=500)
            near = nearly(found, use)
            wins += [
                near and judge(candidate, None, base, settings=rules, use=use).passed,
                found.interval(0.95).low > 0,
            ]
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


class Exchangeable:
    """Three models that see the same judged texts, each with noise of its own: none is better than another.

    The fitted rows that answers are searched among are alike in all three. With noise of their own there, one would
    be better in truth: its index is part of what is judged, and no item's draw says what another index would do.
    """

    FIT, SELECT, GATE, SOURCES = 60, 40, 160, 110

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        labels = rng.integers(0, 5, self.FIT + self.SELECT + self.GATE)
        names = [f"label {label}" for label in labels]
        self.fitted, self.held_out = names[: self.FIT], names[self.FIT : -self.GATE]
        self.judged = names[-self.GATE :]
        self.clusters = np.sort(rng.integers(0, self.SOURCES, self.GATE))
        self.texts = rng.normal(size=(5, 12))[labels] + 0.8 * rng.normal(size=(len(labels), 12))
        # Items of one source share much of what is odd about them.
        self.texts[-self.GATE :] += 0.8 * rng.normal(size=(self.SOURCES, 12))[self.clusters]
        judged = self.texts[-self.GATE :]
        self.typed = {(kind, 2): judged + rng.normal(size=judged.shape) for kind in ("case", "typos")}
        self.index = unit(self.texts[: self.FIT])
        self.others = {name: self.seen(self.texts[self.FIT :]) for name in ("candidate", "champion", "base")}
        self.primary = {name: self.ranked(x[-self.GATE :]) for name, x in self.others.items()}

    def seen(self, texts: np.ndarray) -> np.ndarray:
        return unit(texts + 0.5 * self.rng.normal(size=texts.shape))

    def ranked(self, queries: np.ndarray) -> np.ndarray:
        return ndcg(hits_by_label(self.index, self.fitted, queries, self.judged))

    def near(self, rival: str) -> bool:
        """Whether the candidate might pass against this rival; where not, nothing else need be scored."""
        return nearly(resample(self.primary["candidate"] - self.primary[rival], self.clusters, n=300), 1)

    def contender(self, name: str) -> Contender:
        """One model with everything that the gate guards, scored from its vectors as a retrain does."""
        select, queries = np.split(self.others[name], [self.SELECT])
        scores = label_scores(self.index, self.fitted, queries, self.judged)
        held = knn_predictions(self.index, self.fitted, select)
        predicted = knn_predictions(self.index, self.fitted, queries)
        scores["calibration"] = scale(held, self.held_out, predicted, self.judged).items
        changed = {key: self.ranked(self.seen(texts)) for key, texts in self.typed.items()}
        scores["robustness"] = robustness(scores["ndcg_at_10"], changed, n=10).items
        return Contender(name, scores, GENERIC)


@pytest.mark.parametrize("rival", ["base", "champion"])
def test_with_every_guard_a_candidate_that_is_no_better_passes_as_seldom_as_it_says(rival: str) -> None:
    """Superiority has half of the first use's level. Wide margins leave the gate to it, so that the bound is near."""
    rng, runs = np.random.default_rng(4), 500
    wide = GateSettings(
        min_effect=0.0, margin=0.2, robustness_margin=0.2, calibration_margin=0.2, group_margin=0.3, resamples=1_000
    )
    leakage = find_leakage({"text": (range(60), range(100, 260))})
    passed, usual = 0, 0
    for _ in range(runs):
        drawn = Exchangeable(rng)
        if not drawn.near(rival):
            continue
        base, champion = drawn.contender("base"), drawn.contender("champion") if rival == "champion" else None
        candidate = drawn.contender("candidate")
        for rules in (wide, GateSettings()):
            verdict = judge(
                candidate, champion, base, settings=rules, clusters=drawn.clusters,
                groups={"label": drawn.judged}, leakage=leakage, use=1,
            )  # fmt: skip
            assert {"no_leakage", "gate_set_use", "geometry_kept"} <= {reason.code for reason in verdict.reasons}
            passed += verdict.passed and rules is wide
            usual += verdict.passed and rules is not wide
    level = spent_level(0.05, 1) / 2
    assert usual <= passed <= at_most(level, runs), f"{usual} and {passed} of {runs}"
    assert passed > 0, "the bound is near, so that the test could fail"
