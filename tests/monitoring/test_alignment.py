"""Debiased CKA and the rotation between two clouds, each against a plain form of its definition."""

from itertools import permutations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring import alignment
from monitoring.alignment import debiased_cka, resampled_cka, rotation
from monitoring.errors import VectorsRefused


def cloud(rng, n, d):
    return rng.normal(size=(n, d))


def plain_hsic(x, y):
    """Song et al. (2012), equation 5, word for word."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    first = np.trace(k @ m)
    second = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * (ones @ k @ m @ ones)
    return (first + second - third) / (n * (n - 3))


def plain_cka(x, y):
    return plain_hsic(x, y) / np.sqrt(plain_hsic(x, x) * plain_hsic(y, y))


def counted_hsic(k, m, w):
    """The U-statistic over different texts, each standing as often as it was drawn, by going through them all."""
    sums = np.zeros(3)
    weights = np.zeros(3)
    n = range(len(k))
    for i, j in permutations(n, 2):
        sums[0] += w[i] * w[j] * k[i, j] * m[i, j]
        weights[0] += w[i] * w[j]
    for i, j, q in permutations(n, 3):
        sums[1] += w[i] * w[j] * w[q] * k[i, j] * m[i, q]
        weights[1] += w[i] * w[j] * w[q]
    for i, j, q, r in permutations(n, 4):
        sums[2] += w[i] * w[j] * w[q] * w[r] * k[i, j] * m[q, r]
        weights[2] += w[i] * w[j] * w[q] * w[r]
    return sums @ (np.array([1, -2, 1]) / weights)


@given(st.integers(0, 2**31), st.integers(5, 40), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_cka_is_its_definition(seed, n, d):
    rng = np.random.default_rng(seed)
    x = cloud(rng, n, d).astype(np.float32).astype(np.float64)
    y = (x @ cloud(rng, d, d) + cloud(rng, n, d)).astype(np.float32).astype(np.float64)
    if min(plain_hsic(x, x), plain_hsic(y, y)) > 1e-3:
        assert debiased_cka(x, y) == pytest.approx(plain_cka(x, y), abs=1e-6)


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_a_drawn_sample_is_counted_text_by_text(seed):
    rng = np.random.default_rng(seed)
    k, m = (side @ side.T for side in (cloud(rng, 7, 3), cloud(rng, 7, 4)))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    weights = np.stack([np.ones(7), rng.integers(0, 4, 7) + np.eye(7)[:5].sum(axis=0)])
    found = alignment._hsic(k, m, weights)
    assert found == pytest.approx([counted_hsic(k, m, w) for w in weights], rel=1e-9, abs=1e-9)


def test_cka_knows_a_turned_cloud_and_one_that_has_nothing_to_do_with_it():
    rng = np.random.default_rng(1)
    x = cloud(rng, 60, 200)
    turn = scipy.linalg.qr(cloud(rng, 200, 200))[0]
    assert debiased_cka(x, 3 * x @ turn + 5) == pytest.approx(1, abs=1e-5)
    # The biased estimate of such clouds is near 0.77: with 200 dimensions 60 texts look alike whatever they say.
    values = [debiased_cka(cloud(rng, 60, 200), cloud(rng, 60, 200)) for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)
    centred = [side - side.mean(axis=0) for side in (x, cloud(rng, 60, 200))]
    biased = np.linalg.norm(centred[1].T @ centred[0]) ** 2 / np.prod([np.linalg.norm(c.T @ c) for c in centred])
    assert biased > 0.6


def test_the_interval_of_cka_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    mix = cloud(rng, 6, 6)

    def pair(n):
        x = cloud(rng, n, 6)
        return x, x @ mix + 2 * cloud(rng, n, 6)

    truth = debiased_cka(*pair(4_000))
    held = 0
    for _ in range(150):
        interval = resampled_cka(*pair(80), n=200, seed=int(rng.integers(2**31))).interval()
        held += interval.low <= truth <= interval.high
    # A percentile interval of 80 texts is a little too narrow; 0.95 of 150 has the 99.9 % range 0.88 to 0.99.
    assert 0.87 <= held / 150 <= 1


def test_clusters_are_drawn_whole():
    rng = np.random.default_rng(3)
    x = np.repeat(cloud(rng, 20, 5), 4, axis=0) + 0.01 * cloud(rng, 80, 5)
    y = x + 0.5 * np.repeat(cloud(rng, 20, 5), 4, axis=0)
    clusters = np.repeat(np.arange(20), 4)
    one, all_four = resampled_cka(x, y, n=300), resampled_cka(x, y, clusters, n=300)
    assert (one.clusters, all_four.clusters, all_four.items) == (80, 20, 80)
    assert np.ptp(all_four.draws) > 1.3 * np.ptp(one.draws)


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_the_rotation_is_scipys(seed, n, d):
    rng = np.random.default_rng(seed)
    x, y = cloud(rng, n, d), cloud(rng, n, d)
    ours, (theirs, _) = rotation(x, y), scipy.linalg.orthogonal_procrustes(x, y)
    assert np.allclose(ours @ ours.T, np.eye(d), atol=1e-5)
    # Where fewer texts than dimensions leave it open, any of the best will do.
    assert np.linalg.norm(x @ ours - y) == pytest.approx(np.linalg.norm(x @ theirs - y), rel=1e-4, abs=1e-5)


def test_what_few_vectors_leave_open_is_not_turned():
    rng = np.random.default_rng(5)
    x = cloud(rng, 20, 60)
    turn = rotation(x, x)
    assert np.allclose(turn, np.eye(60), atol=1e-5)
    plane = scipy.linalg.block_diag([[0, 1], [-1, 0]], np.eye(58))
    turned = rotation(x[:, :2] @ np.eye(2, 60), x[:, :2] @ np.eye(2, 60) @ plane)
    assert np.allclose(turned, plane, atol=1e-5)


def test_what_does_not_fit_together_is_refused():
    rng = np.random.default_rng(4)
    for x, y in ((cloud(rng, 4, 3), cloud(rng, 4, 3)), (cloud(rng, 9, 3), cloud(rng, 8, 3))):
        with pytest.raises(VectorsRefused):
            debiased_cka(x, y)
    with pytest.raises(VectorsRefused, match="alike"):
        debiased_cka(np.ones((9, 3)), cloud(rng, 9, 3))
    with pytest.raises(VectorsRefused):
        rotation(cloud(rng, 9, 3), cloud(rng, 9, 4))
