"""Random features: exact sums, an unbiased estimate of the kernel's MMD, and a null that keeps its level."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from monitoring.errors import VectorsRefused
from monitoring.features import MIN_CALIBRATION, UNIT, RandomFeatures
from monitoring.reference import Reference

Draw = Callable[..., NDArray[np.float32]]


def sums(features: RandomFeatures, x: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(features.of(x).sum(axis=0, dtype=np.int64))


def kernel_mmd(x: NDArray[np.float32], y: NDArray[np.float32], sigma: float) -> float:
    """Unbiased squared MMD with the kernel itself, by its definition."""

    def kernel(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
        squares = ((a[:, None].astype(float) - b[None, :]) ** 2).sum(axis=2)
        return np.asarray(np.exp(-squares / (2 * sigma**2)))

    within = [(kernel(z, z).sum() - len(z)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(sum(within) - 2 * kernel(x, y).mean())


def test_features_are_cosines_and_sines_in_fixed_point(make_vectors: Draw) -> None:
    x = make_vectors(np.random.default_rng(0), 300)
    features = RandomFeatures.build(x, x, 0, 32)
    assert features is not None
    angles = x[:5].astype(float) @ features.directions.T.astype(float)
    found = features.of(x[:5])
    assert found.dtype == np.int16
    assert found / UNIT == pytest.approx(np.hstack([np.cos(angles), np.sin(angles)]), abs=0.6 / UNIT)
    # Every vector has the same length, which the unbiased estimate relies on.
    assert np.linalg.norm(found / UNIT, axis=1) ** 2 / 32 == pytest.approx(np.ones(5), abs=1e-3)


@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_split_of_the_vectors_gives_the_same_integers(small_reference: Reference, cuts: list[int]) -> None:
    x = np.random.default_rng(3).normal(size=(200, small_reference.dimension)).astype(np.float32)
    assert small_reference.features is not None
    whole = sums(small_reference.features, x)
    edges = [0, *sorted(cuts), 200]
    parts = [sums(small_reference.features, x[a:b]) for a, b in pairwise(edges)]
    assert np.array_equal(np.sum(parts, axis=0), whole)


def test_the_estimate_is_that_of_the_kernel(make_vectors: Draw) -> None:
    rng = np.random.default_rng(1)
    fit, calibration, window = make_vectors(rng, 500), make_vectors(rng, 400), make_vectors(rng, 300, foreign=0.5)
    features = RandomFeatures.build(fit, calibration, 0, 4096)
    assert features is not None
    distances = np.linalg.norm(fit[:, None] - fit[None, :], axis=2)[np.triu_indices(500, k=1)]
    expected = kernel_mmd(window, calibration, float(np.median(distances)))
    found = features.judge(sums(features, window), 300, 0.01)
    assert found.squared == pytest.approx(expected, rel=0.1)
    assert found.p_value < 1e-6
    assert found.squared > found.threshold
    assert found.interval[0] < found.ratio < found.interval[1]


def test_the_spectrum_is_that_of_the_calibration_features(make_vectors: Draw) -> None:
    """Few items go by way of their Gram matrix, many in chunks by way of the covariance: the same eigenvalues."""
    rng = np.random.default_rng(2)
    fit = make_vectors(rng, 300)
    for n in (120, 2500):
        calibration = make_vectors(rng, n)
        features = RandomFeatures.build(fit, calibration, 0, 32)
        assert features is not None
        phi = features.of(calibration) / UNIT / np.sqrt(32)
        expected = np.sort(np.linalg.eigvalsh(np.cov(phi, rowvar=False)))[::-1]
        assert features.spectrum == pytest.approx(expected[: len(features.spectrum)], abs=1e-9)
        assert features.mean == pytest.approx(phi.mean(axis=0) * np.sqrt(32))


@pytest.mark.parametrize(("n_cal", "n"), [(1500, 256), (300, 256), (1500, 64)])
def test_the_level_holds_on_fresh_draws(make_vectors: Draw, n_cal: int, n: int) -> None:
    """2,000 windows of rows drawn afresh, against 100 calibration parts drawn afresh."""
    rng = np.random.default_rng(n_cal + n)
    fit = make_vectors(rng, 400)
    found = []
    for _ in range(100):
        features = RandomFeatures.build(fit, make_vectors(rng, n_cal), 0, 64)
        assert features is not None
        windows = features.of(make_vectors(rng, 20 * n)).reshape(20, n, -1).sum(axis=1, dtype=np.int64)
        found += [features.judge(window, n, 0.01).p_value for window in windows]
    p = np.array(found)
    for level in (0.5, 0.05, 0.01, 0.001):
        interval = binomtest(int((p <= level).sum()), len(p)).proportion_ci(0.99, "exact")
        assert interval.low <= level <= interval.high, (level, (p <= level).mean())


def test_no_drift_has_no_distance_on_average(make_vectors: Draw) -> None:
    rng = np.random.default_rng(6)
    squared = []
    for _ in range(60):
        features = RandomFeatures.build(make_vectors(rng, 200), make_vectors(rng, 300), 0, 32)
        assert features is not None
        squared += [features.judge(sums(features, make_vectors(rng, 100)), 100, 0.01).squared for _ in range(10)]
    assert abs(np.mean(squared)) < 4 * np.std(squared) / np.sqrt(60)


def test_the_interval_holds_the_true_ratio(make_vectors: Draw) -> None:
    rng = np.random.default_rng(7)
    calibration = make_vectors(rng, 1000)
    features = RandomFeatures.build(make_vectors(rng, 300), calibration, 0, 64)
    assert features is not None
    many = make_vectors(rng, 60_000, foreign=0.3)
    # The truth, as nearly as 60,000 vectors of either kind tell it.
    mean = features.of(make_vectors(rng, 60_000)).mean(axis=0) / UNIT
    truth = RandomFeatures(features.directions, mean, features.spectrum, 60_000)
    true_ratio = truth.judge(sums(truth, many), 60_000, 0.01).ratio
    held = 0
    for _ in range(200):
        low, high = features.judge(sums(features, make_vectors(rng, 128, foreign=0.3)), 128, 0.01).interval
        held += low <= true_ratio <= high
    assert held >= 185


def test_too_little_to_test_with_gives_no_features(make_vectors: Draw) -> None:
    rng = np.random.default_rng(8)
    x = make_vectors(rng, MIN_CALIBRATION)
    assert RandomFeatures.build(x, x, 0, 8) is not None
    assert RandomFeatures.build(x, x[:-1], 0, 8) is None
    assert RandomFeatures.build(x, x, 0, 0) is None
    assert RandomFeatures.build(np.repeat(x[:1], 50, axis=0), x, 0, 8) is None


def test_windows_that_cannot_be_judged(small_reference: Reference) -> None:
    features = small_reference.features
    assert features is not None
    assert features.judge(np.zeros(features.size), 0, 0.01).p_value == 1.0
    with pytest.raises(VectorsRefused, match="expected 128"):
        features.judge([1, 2, 3], 10, 0.01)
