"""The gate's further rules: tests that hold together, subgroups, robustness, calibration, leakage, a set used often."""

import json

import numpy as np
import pytest

from monitoring.errors import VectorsRefused
from monitoring.gate import Contender, GateSettings, GuardSet, Outcome, Verdict, judge
from monitoring.leakage import find_leakage, gate_set_digest
from monitoring.significance import Resampled, rank_correlation_difference, resample

RNG = np.random.default_rng(0)
GENERIC = (lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))(RNG.normal(size=(150, 16)))
N = 1200
NDCG = RNG.beta(5, 2, N)
HITS = (RNG.random(N) < 0.9).astype(float)


def contender(name: str, shift: float = 0.0, **more: np.ndarray) -> Contender:
    return Contender(name, {"ndcg_at_10": np.clip(NDCG + shift, 0, 1), "knn_accuracy": HITS, **more}, GENERIC)


BASE, BETTER = contender("base"), contender("candidate", 0.04)


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.reasons}


def noisy(mean: float, seed: int) -> np.ndarray:
    """Differences with a mean of exactly this and a standard error of 0.01."""
    noise = np.random.default_rng(seed).normal(size=N)
    return mean + 0.01 * np.sqrt(N) * (noise - noise.mean()) / noise.std()


def test_tests_that_hold_alone_must_hold_together() -> None:
    """Superiority at p 0.02 and a guard at p 0.04 pass alone; Holm asks one of the two for half its level."""
    base = Contender("base", {"ndcg_at_10": np.zeros(N), "knn_accuracy": np.zeros(N)}, GENERIC)
    rules = GateSettings(min_effect=0.0)

    def with_guard(guard: float) -> Verdict:
        scores = {"ndcg_at_10": noisy(0.0208, 1), "knn_accuracy": noisy(guard, 2)}
        return judge(Contender("candidate", scores, GENERIC), None, base, settings=rules)

    alone = with_guard(-0.02 + 0.0175)
    assert alone.outcome is Outcome.INCONCLUSIVE
    assert all(reason.numbers["low"] > -reason.numbers.get("margin", 0.0) for reason in alone.reasons[:2])
    assert "as one of 2 tests that must hold together" in alone.reasons[0].text
    assert with_guard(0.02).passed, "a guard that is far from its margin leaves the whole level to the other"
    assert alone.metrics["multiplicity"] == {"procedure": "holm", "tests": 2, "level": pytest.approx(0.05)}


def test_robustness_and_calibration_are_guarded_where_they_are_scored() -> None:
    good = {"robustness": 0.8 * NDCG, "calibration": 1 - NDCG / 3}
    base = contender("base", **good)
    assert judge(contender("candidate", 0.04, **good), None, base).passed
    for name, values in good.items():
        verdict = judge(contender("candidate", 0.04, **{**good, name: values - 0.06}), None, base)
        assert verdict.outcome is Outcome.FAIL
        assert f"{name}_worse" in codes(verdict)
        settings = GateSettings(**{f"{name}_margin": 0.1})
        lost = contender("candidate", 0.04, **{**good, name: values - 0.06})
        assert judge(lost, None, base, settings=settings).passed
        with pytest.raises(VectorsRefused, match=f"candidate has no scores for {name}"):
            judge(BETTER, None, contender("base", **{name: values}))
        with pytest.raises(VectorsRefused, match=f"base has no scores for {name}"):
            judge(contender("candidate", 0.04, **{name: values}), None, BASE)


def test_a_subgroup_that_pays_for_the_others_blocks() -> None:
    labels = [f"label {i % 12}" for i in range(N)]
    hurt = np.array([label == "label 3" for label in labels])
    ours = np.clip(NDCG + np.where(hurt, -0.3, 0.06), 0, 1)
    candidate = Contender("candidate", {"ndcg_at_10": ours, "knn_accuracy": HITS}, GENERIC)
    assert judge(candidate, None, BASE).passed
    verdict = judge(candidate, None, BASE, groups={"label": labels})
    assert verdict.outcome is Outcome.FAIL
    reason = next(r for r in verdict.reasons if r.code == "group_worse")
    assert reason.numbers["items"] == 100
    assert "label 3" not in reason.text, "a reason repeats no text of a user"
    fine = judge(BETTER, None, BASE, groups={"label": labels})
    assert fine.passed
    kept = next(r for r in fine.reasons if r.code == "groups_kept")
    assert kept.numbers["groups"] == 12
    tiny = judge(BETTER, None, BASE, groups={"label": [str(i // 10) for i in range(N)]})
    assert tiny.passed
    assert "no subgroup has the 30 items" in next(r for r in tiny.reasons if r.code == "groups_kept").text


def test_guard_sets_of_other_items_join_the_tests() -> None:
    gold = RNG.random(400)
    rival = gold + 0.3 * RNG.normal(size=400)
    kept = rank_correlation_difference(rival + 0.01 * RNG.normal(size=400), rival, gold, n=500)
    lost = rank_correlation_difference(rival + 0.5 * RNG.normal(size=400), rival, gold, n=500)
    assert judge(BETTER, None, BASE, guard_sets=[GuardSet("stsb_spearman", {"base": kept}, 0.005)]).passed
    verdict = judge(BETTER, None, BASE, guard_sets=[GuardSet("stsb_spearman", {"base": lost}, 0.005)])
    assert verdict.outcome is Outcome.FAIL
    assert "stsb_spearman_worse" in codes(verdict)
    champion = contender("champion", 0.01)
    with pytest.raises(VectorsRefused, match="no finite difference to champion"):
        judge(BETTER, champion, BASE, guard_sets=[GuardSet("stsb_spearman", {"base": kept}, 0.005)])
    broken = Resampled(0.0, np.full(10, np.nan), 5, 5)
    with pytest.raises(VectorsRefused, match="no finite difference to base"):
        judge(BETTER, None, BASE, guard_sets=[GuardSet("stsb_spearman", {"base": broken}, 0.005)])


def test_a_row_on_both_sides_fails_whatever_the_gain() -> None:
    clean = find_leakage({"text": ([1, 2, 3], [4, 5]), "near-duplicate": ([7, 8, 9], [10, 11])})
    assert clean.rows == ()
    verdict = judge(BETTER, None, BASE, leakage=clean)
    assert verdict.passed
    assert "no_leakage" in codes(verdict)
    leaky = find_leakage({"text": ([1, 2, 3], [4, 3]), "near-duplicate": ([7, 8, 9], [7, 9])})
    assert leaky.rows == (0, 1)
    assert dict(leaky.shared) == {"text": 1, "near-duplicate": 2}
    verdict = judge(BETTER, None, BASE, leakage=leaky)
    assert verdict.outcome is Outcome.FAIL
    assert "2 of 2 judged rows" in next(r for r in verdict.reasons if r.code == "leakage").text
    few = Contender("base", {"ndcg_at_10": NDCG[:10], "knn_accuracy": HITS[:10]}, GENERIC)
    assert judge(few, None, few, leakage=leaky).outcome is Outcome.FAIL, "also where there is no other verdict"
    for keys in ({}, {"text": ([], [1])}, {"text": ([1], [])}, {"text": ([1], [2]), "near": ([1, 2], [3])}):
        with pytest.raises(VectorsRefused, match="leakage needs"):
            find_leakage(keys)  # type: ignore[arg-type]


def test_a_gate_set_is_known_by_its_rows() -> None:
    assert gate_set_digest([3, 1, 2]) == gate_set_digest([1, 2, 3])
    assert gate_set_digest(["1", "23"]) != gate_set_digest(["12", "3"])
    assert len(gate_set_digest(["a"])) == 64


def test_a_gate_set_used_often_asks_for_more_and_is_spent_in_the_end() -> None:
    base = Contender("base", {"ndcg_at_10": np.zeros(N), "knn_accuracy": np.zeros(N)}, GENERIC)
    candidate = Contender("candidate", {"ndcg_at_10": noisy(0.025, 1), "knn_accuracy": np.zeros(N)}, GENERIC)
    found = [judge(candidate, None, base, use=use) for use in (None, 1, 2, 3, 40)]
    assert [verdict.passed for verdict in found] == [True, True, False, False, False]
    assert "ndcg_at_10_unclear" in codes(found[2])
    assert {"gate_set_use"} <= codes(found[1])
    assert "gate_set_spent" in codes(found[4])
    # The most certain gain does not pass on a set that is spent.
    sure = judge(BETTER, None, BASE, use=40)
    assert sure.outcome is Outcome.INCONCLUSIVE
    assert json.loads(json.dumps(sure.to_json(), allow_nan=False))["metrics"]["multiplicity"]["level"] < 1e-4
    with pytest.raises(ValueError, match="counted from 1"):
        judge(BETTER, None, BASE, use=0)


def test_settings_of_the_further_rules_are_checked() -> None:
    bad: dict[str, float]
    for bad in (
        {"robustness_margin": 0.0},
        {"calibration_margin": 1.0},
        {"group_margin": -1.0},
        {"group_min_items": 1},
    ):
        with pytest.raises(ValueError, match="must"):
            GateSettings(**bad)  # type: ignore[arg-type]
    rules = GateSettings(robustness_margin=0.03, margin_items=0)
    margins = [rules.margin_for(1000, name) for name in ("robustness", "calibration", "knn_accuracy")]
    assert margins == [0.03, 0.02, 0.02]
    assert resample([0.1] * 40).p_above(0.0) == 0.0
