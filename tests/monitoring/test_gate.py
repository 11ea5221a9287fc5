"""The gate's three answers, how often a candidate that is no better slips through, and the collapse of geometry."""

import json

import numpy as np
import pytest

from monitoring import geometry
from monitoring.collapse import GeometryLimits
from monitoring.errors import VectorsRefused
from monitoring.gate import Contender, GateSettings, Outcome, Verdict, judge


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


GENERIC = unit(np.random.default_rng(0).normal(size=(400, 32)))


def contender(
    name: str, ndcg: np.ndarray, accuracy: np.ndarray | None = None, generic: np.ndarray | None = GENERIC
) -> Contender:
    hits = np.ones(len(ndcg)) if accuracy is None else accuracy
    return Contender(name, {"ndcg_at_10": ndcg, "knn_accuracy": hits}, generic)


def scores(seed: int, n: int = 1500, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.beta(5, 2, n) + shift, 0, 1)


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.reasons}


BASE = contender("base", scores(1))


def test_a_better_candidate_passes_with_reasons_in_words_and_numbers() -> None:
    verdict = judge(contender("candidate", np.clip(BASE.scores["ndcg_at_10"] + 0.04, 0, 1)), None, BASE)
    assert verdict.outcome is Outcome.PASS
    assert verdict.passed
    assert codes(verdict) == {"ndcg_at_10_better", "knn_accuracy_kept", "geometry_kept"}
    first = verdict.reasons[0]
    assert "points" in first.text
    assert first.numbers["low"] > 0
    assert first.numbers["items"] == 1500
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["outcome"] == "pass"
    assert verdict.metrics["vs_base"]["ndcg_at_10"]["mean"] == pytest.approx(first.numbers["mean"])


def test_a_worse_candidate_fails() -> None:
    verdict = judge(contender("candidate", np.clip(BASE.scores["ndcg_at_10"] - 0.04, 0, 1)), None, BASE)
    assert verdict.outcome is Outcome.FAIL
    assert "ndcg_at_10_worse" in codes(verdict)


def test_the_same_candidate_is_inconclusive() -> None:
    verdict = judge(contender("candidate", BASE.scores["ndcg_at_10"]), None, BASE)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "ndcg_at_10_unclear" in codes(verdict)


def test_a_sure_but_tiny_gain_is_inconclusive() -> None:
    verdict = judge(contender("candidate", BASE.scores["ndcg_at_10"] + 0.004), None, BASE)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "ndcg_at_10_too_small" in codes(verdict)
    assert judge(
        contender("candidate", BASE.scores["ndcg_at_10"] + 0.004), None, BASE, settings=GateSettings(min_effect=0.001)
    ).passed


def test_a_gain_paid_with_accuracy_fails() -> None:
    hits = np.ones(1500)
    hits[:90] = 0
    verdict = judge(contender("candidate", BASE.scores["ndcg_at_10"] + 0.05, hits), None, BASE)
    assert verdict.outcome is Outcome.FAIL
    assert "knn_accuracy_worse" in codes(verdict)


def test_a_guard_that_is_not_settled_is_inconclusive() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = (rng.random(130) < 0.75).astype(float), (rng.random(130) < 0.78).astype(float)
    base = contender("base", scores(2, 130), theirs)
    verdict = judge(contender("candidate", base.scores["ndcg_at_10"] + 0.05, ours), None, base)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "knn_accuracy_unclear" in codes(verdict)


def test_the_champion_must_be_beaten_and_the_base_not_lost() -> None:
    champion = contender("champion", np.clip(BASE.scores["ndcg_at_10"] + 0.04, 0, 1))
    verdict = judge(contender("candidate", np.clip(BASE.scores["ndcg_at_10"] + 0.02, 0, 1)), champion, BASE)
    assert verdict.outcome is Outcome.FAIL
    bad_champion = contender("champion", np.clip(BASE.scores["ndcg_at_10"] - 0.15, 0, 1))
    verdict = judge(contender("candidate", np.clip(BASE.scores["ndcg_at_10"] - 0.05, 0, 1)), bad_champion, BASE)
    assert verdict.outcome is Outcome.FAIL, "better than a bad champion but worse than the bare backbone"
    assert set(verdict.metrics) >= {"vs_champion", "vs_base"}


def test_too_few_items_give_no_verdict() -> None:
    base = contender("base", scores(3, 20))
    for shift in (0.3, -0.3):
        verdict = judge(contender("candidate", base.scores["ndcg_at_10"] + shift), None, base)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "too_few_items" in codes(verdict)


@pytest.mark.parametrize("n", [130, 1500])
def test_a_candidate_that_is_no_better_rarely_passes(n: int) -> None:
    """Type-I error of the gate: noise alone passes in at most 2.5 % of trials, here with min_effect switched off."""
    rng = np.random.default_rng(n)
    rules = GateSettings(min_effect=0.0, resamples=1000)
    passed = 0
    for _ in range(300):
        truth = rng.beta(5, 2, n)
        ours, theirs = (np.clip(truth + 0.1 * rng.normal(size=n), 0, 1) for _ in range(2))
        base = Contender("base", {"ndcg_at_10": theirs}, GENERIC[:50])
        passed += judge(Contender("candidate", {"ndcg_at_10": ours}, GENERIC[:50]), None, base, settings=rules).passed
    assert passed <= 16, f"{passed} of 300; 7.5 are allowed on average"


def test_a_collapse_fails_whatever_the_gain() -> None:
    better = np.clip(BASE.scores["ndcg_at_10"] + 0.1, 0, 1)
    collapsed = unit(GENERIC + 4 * GENERIC[:1])
    verdict = judge(contender("candidate", better, generic=collapsed), None, BASE)
    assert verdict.outcome is Outcome.FAIL
    assert "geometry_mean_random_pair_cosine" in codes(verdict)
    flat = GENERIC.copy()
    flat[:, 3:] = 0
    assert "geometry_effective_rank" in codes(judge(contender("candidate", better, generic=unit(flat)), None, BASE))
    shuffled = GENERIC[np.random.default_rng(0).permutation(400)]
    assert "neighbor_overlap" in codes(judge(contender("candidate", better, generic=shuffled), None, BASE))
    broken = GENERIC.copy()
    broken[7, 3] = np.nan
    verdict = judge(contender("candidate", better, generic=broken), None, BASE)
    assert verdict.outcome is Outcome.FAIL
    assert "geometry_not_finite" in codes(verdict)
    long = judge(contender("candidate", better, generic=GENERIC * 1.01), None, BASE)
    assert "geometry_max_norm_error" in codes(long)


def test_a_closer_cloud_is_a_warning_and_no_generic_rows_no_verdict() -> None:
    better = np.clip(BASE.scores["ndcg_at_10"] + 0.1, 0, 1)
    closer = unit(GENERIC + 0.5 * GENERIC[:1])
    verdict = judge(contender("candidate", better, generic=closer), None, BASE)
    assert verdict.passed
    assert "geometry_warning" in codes(verdict)
    unknown = judge(contender("candidate", better, generic=None), None, BASE)
    assert unknown.outcome is Outcome.INCONCLUSIVE
    assert "geometry_unknown" in codes(unknown)


def test_scores_of_different_items_are_refused() -> None:
    with pytest.raises(VectorsRefused, match="same items"):
        judge(contender("candidate", scores(1, 10)), None, BASE)
    with pytest.raises(VectorsRefused, match="no scores for ndcg_at_10"):
        judge(Contender("candidate", {"knn_accuracy": np.ones(1500)}), None, BASE)


def test_one_cluster_however_large_gives_no_verdict() -> None:
    base = contender("base", scores(3, 60))
    for shift in (0.2, -0.3):
        candidate = contender("candidate", np.clip(base.scores["ndcg_at_10"] + shift, 0, 1))
        for clusters, drawn in ((np.zeros(60, np.int64), 1), (np.arange(60) % 19, 19)):
            verdict = judge(candidate, None, base, clusters=clusters)
            assert verdict.outcome is Outcome.INCONCLUSIVE
            reason = next(r for r in verdict.reasons if r.code == "too_few_clusters")
            assert reason.numbers == {"clusters": drawn, "items": 60, "needed": 20}
            assert f"are {drawn} independent clusters" in reason.text
            assert verdict.metrics["clusters"] == drawn
            assert verdict.metrics["vs_base"]["ndcg_at_10"]["clusters"] == drawn
    # The same scores as 20 clusters settle it.
    better = contender("candidate", np.clip(base.scores["ndcg_at_10"] + 0.2, 0, 1))
    assert judge(better, None, base, clusters=np.arange(60) % 20).passed


def test_the_margin_follows_the_clusters_and_ends_at_the_cap() -> None:
    """A guard that lost 9 of 150 items in 30 clusters: 5 of 30 would be 16.7 points, and let it through."""
    rng = np.random.default_rng(3)
    hits = np.ones(150)
    hits[rng.permutation(150)[:9]] = 0
    base = contender("base", scores(2, 150))
    candidate = contender("candidate", np.clip(base.scores["ndcg_at_10"] + 0.1, 0, 1), hits)
    verdict = judge(candidate, None, base, clusters=np.arange(150) % 30)
    guard = next(r for r in verdict.reasons if r.code.startswith("knn_accuracy"))
    assert guard.numbers["margin"] == 0.05
    assert verdict.outcome is Outcome.FAIL
    few = np.ones(150)
    few[0] = 0
    candidate = contender("candidate", np.clip(base.scores["ndcg_at_10"] + 0.1, 0, 1), few)
    verdict = judge(candidate, None, base)
    assert verdict.passed
    assert "a loss above 3.3 points is excluded" in verdict.reasons[1].text


def test_a_sure_loss_inside_the_margin_passes_and_is_said() -> None:
    hits = np.ones(3000)
    hits[:30] = 0
    base = contender("base", scores(6, 3000))
    verdict = judge(contender("candidate", np.clip(base.scores["ndcg_at_10"] + 0.05, 0, 1), hits), None, base)
    assert verdict.passed
    assert "a little worse, but a loss above 2.0 points is excluded" in verdict.reasons[1].text


def test_pairs_are_guarded_by_their_nearest_row() -> None:
    rng = np.random.default_rng(1)
    ndcg, first = scores(4, 400), np.ones(400)
    lost = (rng.random(400) < 0.85).astype(float)
    base = Contender("base", {"ndcg_at_10": ndcg, "nn_accuracy": first}, GENERIC)
    better = np.clip(ndcg + 0.05, 0, 1)
    verdict = judge(Contender("candidate", {"ndcg_at_10": better, "nn_accuracy": lost}, GENERIC), None, base)
    assert verdict.outcome is Outcome.FAIL
    assert "nn_accuracy_worse" in codes(verdict)
    assert judge(Contender("candidate", {"ndcg_at_10": better, "nn_accuracy": first}, GENERIC), None, base).passed
    # Where the usual guard was scored, it alone rules.
    both = {"knn_accuracy": first, "nn_accuracy": first, "ndcg_at_10": ndcg}
    ours = {"knn_accuracy": first, "nn_accuracy": lost, "ndcg_at_10": better}
    assert judge(Contender("candidate", ours, GENERIC), None, Contender("base", both, GENERIC)).passed


def test_settings_are_checked_and_the_margin_grows_on_small_sets() -> None:
    assert GateSettings().margin_for(1500) == 0.02
    assert GateSettings().margin_for(130) == pytest.approx(5 / 130)
    assert GateSettings().margin_for(30) == 0.05
    assert GateSettings(margin=0.1).margin_for(1500) == 0.1
    bad: dict[str, object]
    for bad in (
        {"min_effect": -1.0}, {"margin": 0.0}, {"confidence": 0.3}, {"min_items": 1}, {"resamples": 3},
        {"min_clusters": 1}, {"guards": ()},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must"):
            GateSettings(**bad)  # type: ignore[arg-type]


def test_geometry_of_known_clouds() -> None:
    axes = np.eye(8, dtype=np.float32)
    assert geometry.mean_random_pair_cosine(axes) == pytest.approx(0.0)
    assert geometry.effective_rank(axes) == pytest.approx(8.0)
    assert geometry.uniformity(axes) == pytest.approx(-4.0)
    same = np.tile(axes[:1], (5, 1))
    assert geometry.mean_random_pair_cosine(same) == pytest.approx(1.0)
    assert geometry.effective_rank(same) == pytest.approx(1.0)
    assert geometry.uniformity(same) == pytest.approx(0.0)
    pairs = GENERIC.astype(np.float64) @ GENERIC.T.astype(np.float64)
    expected = pairs[np.triu_indices(400, 1)].mean()
    assert geometry.mean_random_pair_cosine(GENERIC) == pytest.approx(expected, abs=1e-6)
    assert geometry.participation_ratio(np.random.default_rng(1).normal(size=(5000, 16))) == pytest.approx(16, rel=0.02)
    line = np.stack([np.linspace(-1, 1, 9), np.zeros(9)], axis=1)
    assert geometry.first_component_share(line) == pytest.approx(1.0)
    assert geometry.first_component_share(axes) == pytest.approx(1 / 7)
    assert geometry.neighbor_overlap(GENERIC, GENERIC) == 1.0
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(32, 32)))[0]
    assert geometry.neighbor_overlap(GENERIC, GENERIC @ rotation) > 0.99
    assert geometry.summary(GENERIC)["rows"] == 400
    assert GeometryLimits().min_rank_ratio == 0.5
