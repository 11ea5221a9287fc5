"""The interval that may be watched: it covers at all times together, closes in, and adds up over replicas."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaln

from monitoring.anytime import bound, log_evidence
from monitoring.statistics import rate_interval

LEVEL = 0.05
PATHS, LENGTH = 4000, 600


def ever_missed(values: NDArray[np.float64], mean: float) -> float:
    """Share of paths (p, n) whose interval missed the mean at one time at least; the evidence, written out plainly."""
    sums = values.cumsum(axis=1)
    n = np.arange(1, values.shape[1] + 1)
    evidence = betaln(sums + 0.5, n - sums + 0.5) - betaln(0.5, 0.5)
    evidence -= sums * math.log(mean) + (n - sums) * math.log1p(-mean)
    return float((evidence >= -math.log(LEVEL)).any(axis=1).mean())


@pytest.mark.parametrize("mean", [0.01, 0.1, 0.5])
def test_looking_after_every_observation_misses_as_rarely_as_stated(mean: float) -> None:
    """Zeros and ones, and values in between, which vary less; a fixed-time interval fails the same test."""
    rng = np.random.default_rng(7)
    coins = (rng.random((PATHS, LENGTH)) < mean).astype(np.float64)
    missed = ever_missed(coins, mean)
    low, _ = rate_interval(round(missed * PATHS), PATHS, 0.999)
    assert low <= LEVEL
    shades = rng.beta(4 * mean, 4 * (1 - mean), (PATHS, LENGTH))
    assert ever_missed(shades, mean) <= missed + 0.01


def test_an_interval_for_one_look_is_missed_far_more_often() -> None:
    rng = np.random.default_rng(7)
    coins = rng.random((400, LENGTH)) < 0.1
    sums = coins.cumsum(axis=1)
    looks = range(9, LENGTH, 10)
    missed = [
        any(not low <= 0.1 <= high for low, high in (rate_interval(int(row[n]), n + 1, 1 - LEVEL) for n in looks))
        for row in sums
    ]
    assert np.mean(missed) > 2 * LEVEL


def test_the_edges_are_where_the_evidence_crosses_the_limit() -> None:
    for total, n in ((0.0, 20), (20.0, 20), (3.25, 40), (700.5, 1000)):
        found = bound(total, n, LEVEL)
        assert 0 <= found.lower <= found.mean <= found.upper <= 1
        for edge in (found.lower, found.upper):
            if 0 < edge < 1:
                assert log_evidence(edge, total, n) == pytest.approx(-math.log(LEVEL), abs=1e-6)
    assert bound(0, 20, LEVEL).lower == 0
    assert bound(20, 20, LEVEL).upper == 1


def test_it_closes_in_and_says_nothing_without_observations() -> None:
    widths = [(f := bound(0.3 * n, n, LEVEL)).upper - f.lower for n in (10, 100, 1000, 100_000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.02
    assert (bound(0, 0, LEVEL).lower, bound(0, 0, LEVEL).upper) == (0, 1)
    assert bound(0, 100_000_000, LEVEL).upper < 1e-6


@pytest.mark.parametrize(("total", "n", "level"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0), (1, 5, 1)])
def test_what_is_no_sum_of_shares_is_refused(total: float, n: int, level: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        bound(total, n, level)
