"""Confirmation: exact p-values without drift, and a clear answer with it."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from monitoring.errors import VectorsRefused
from monitoring.reference import Reference
from monitoring.two_sample import FEWEST, area, area_interval, confirm, knn_test

Draw = Callable[..., NDArray[np.float32]]


def test_the_neighbour_share_is_counted_by_its_definition(make_vectors: Draw) -> None:
    x = make_vectors(np.random.default_rng(0), 60)
    x[7] = x[3] = x[40]  # copies must not count as their own neighbours
    ours = np.arange(60) < 25
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    near = np.argsort(-similarity, axis=1, kind="stable")[:, :5]
    expected = np.mean([ours[near[i]] == ours[i] for i in range(60)])
    share, p = knn_test(x, ours, np.random.default_rng(1).permuted(np.tile(ours, (99, 1)), axis=1))
    # Which of several equal copies comes first is nobody's business.
    assert share == pytest.approx(expected, abs=0.02)
    assert p in {k / 100 for k in range(1, 101)}


def test_the_area_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(2)
    scores = np.asarray(np.round(rng.normal(size=300) + (np.arange(300) < 100), 1), dtype=np.float64)
    ours = np.arange(300) < 100
    assert area(scores, ours) == pytest.approx(roc_auc_score(ours, scores))
    low, high = area_interval(scores, ours)
    assert low < area(scores, ours) < high


def test_the_interval_of_the_area_holds_the_truth() -> None:
    """Normal scores one apart: the area is Phi(1 / sqrt 2)."""
    rng = np.random.default_rng(3)
    ours = np.arange(150) < 60
    truth, held = 0.760250, 0
    for _ in range(400):
        low, high = area_interval(np.asarray(rng.normal(size=150) + ours, dtype=np.float64), ours)
        held += low <= truth <= high
    assert 366 <= held <= 394
    low, high = area_interval(10.0 * ours, ours)
    assert low == pytest.approx(0.95)
    assert high == 1.0


def test_p_values_are_uniform_without_drift(make_reference: Callable[..., Reference], make_vectors: Draw) -> None:
    rng = np.random.default_rng(4)
    found = []
    for seed in range(120):
        reference = make_reference(rng, n_fit=200, n_cal=150)
        answer = confirm(reference, make_vectors(rng, 60), seed=seed, permutations=199)
        assert answer is not None
        found.append((answer.knn_p, answer.auc_p))
    for p in np.array(found).T:
        # Ranks among 200, so discrete: a continuous uniform is within 1/200 of them.
        assert kstest(p - rng.random(len(p)) / 200, "uniform").pvalue > 1e-3


def test_half_foreign_traffic_is_confirmed_and_its_items_named(small_reference: Reference, make_vectors: Draw) -> None:
    rng = np.random.default_rng(5)
    window = np.concatenate([make_vectors(rng, 60), make_vectors(rng, 60, foreign=1.0)])
    answer = confirm(small_reference, window)
    assert answer is not None
    assert answer.knn_p == answer.auc_p == pytest.approx(1 / 1000)
    assert answer.knn_share > answer.knn_expected
    assert 0.6 < answer.auc_interval[0] < answer.auc < answer.auc_interval[1]
    assert sum(row >= 60 for row in answer.unlike) >= 9
    assert json.loads(json.dumps(answer.to_json()))["auc_interval"] == list(answer.auc_interval)
    assert confirm(small_reference, window) == answer


def test_only_what_can_be_compared_is(
    small_reference: Reference, make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    rng = np.random.default_rng(6)
    assert confirm(small_reference, make_vectors(rng, FEWEST - 1)) is None
    assert confirm(make_reference(rng, n_fit=50, n_cal=FEWEST - 1), make_vectors(rng, 100)) is None
    with pytest.raises(VectorsRefused):
        confirm(small_reference, np.zeros((50, 3)))
