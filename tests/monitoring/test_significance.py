"""Intervals cover as often as they say, families of tests err as seldom as they say, and levels add up."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from monitoring import significance
from monitoring.errors import VectorsRefused
from monitoring.significance import Claim, holm, spent_level


def test_the_bootstrap_is_seeded_and_refuses_nonsense() -> None:
    difference = np.random.default_rng(0).normal(size=50)
    assert significance.paired_bootstrap(difference, seed=1) == significance.paired_bootstrap(difference, seed=1)
    assert significance.paired_bootstrap(difference, seed=1) != significance.paired_bootstrap(difference, seed=2)
    for bad in ([], [np.nan], [[1.0]]):
        with pytest.raises(VectorsRefused):
            significance.paired_bootstrap(bad)
    with pytest.raises(VectorsRefused, match="one mark"):
        significance.paired_bootstrap([1.0, 2.0], [1])


def test_a_p_value_says_what_the_bound_says() -> None:
    found = significance.resample(np.random.default_rng(0).normal(0.1, 1, 200), seed=1, n=999)
    for level in (0.01, 0.025, 0.05, 0.2, 0.5):
        bounds = found.interval(1 - 2 * level) if level < 0.5 else found.interval(0.0)
        for threshold in np.linspace(-0.1, 0.3, 41):
            assert (found.p_above(threshold) <= level) == (bounds.low > threshold)
            assert (found.p_below(threshold) <= level) == (bounds.high < threshold)
    assert found.p_above(-9) == 0.0
    assert found.p_above(9) == 1.0


def test_holm_is_the_written_out_procedure() -> None:
    equal = {name: Claim(p, 0.05) for name, p in {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}.items()}
    assert holm(equal) == {"a": True, "b": False, "c": False, "d": True}
    assert holm({"a": Claim(0.02, 0.025), "b": Claim(0.02, 0.05)}) == {"a": True, "b": True}
    assert holm({"a": Claim(0.02, 0.025), "b": Claim(0.03, 0.05)}) == {"a": False, "b": False}
    assert holm({"a": Claim(0.05, 0.05)}) == {"a": True}
    assert holm({}) == {}


@pytest.mark.parametrize("together", [0.0, 0.9])
def test_a_family_errs_as_seldom_as_its_largest_level(together: float) -> None:
    """Six true nulls, independent or nearly one test: some claim is held in at most 5 % of families."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(4000):
        z = math.sqrt(together) * rng.normal() + math.sqrt(1 - together) * rng.normal(size=6)
        p = [0.5 * math.erfc(value / math.sqrt(2)) for value in z]
        levels = [0.025, 0.025, 0.05, 0.05, 0.05, 0.05]
        wrong += any(holm({str(i): Claim(p[i], levels[i]) for i in range(6)}).values())
    assert wrong / 4000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_levels_of_all_uses_add_up_to_the_whole() -> None:
    levels = [spent_level(0.05, use) for use in range(1, 5000)]
    assert levels == sorted(levels, reverse=True)
    assert 0.0499 < sum(levels) < 0.05
    for use, level in ((0, 0.05), (1, 0.0), (1, 1.0)):
        with pytest.raises(ValueError, match="counted from 1"):
            spent_level(level, use)


def test_the_difference_of_rank_correlations_is_scipys() -> None:
    rng = np.random.default_rng(0)
    truth = np.round(rng.random(200) * 5)
    better, worse = truth + rng.normal(size=200), truth + 3 * rng.normal(size=200)
    found = significance.rank_correlation_difference(better, worse, truth, n=500)
    assert found.value == pytest.approx(spearmanr(better, truth)[0] - spearmanr(worse, truth)[0])
    assert found.p_above(0.0) == 0.0
    same = significance.rank_correlation_difference(better, better, truth, n=100)
    assert same.value == 0.0
    assert (same.draws == 0).all()
    noise = significance.rank_correlation_difference(better, truth + rng.normal(size=200), truth, n=500)
    bounds = noise.interval()
    assert bounds.low < 0 < bounds.high
    with pytest.raises(VectorsRefused, match="all values are alike"):
        significance.rank_correlation_difference(better, worse, np.ones(200))
    with pytest.raises(VectorsRefused, match="three items"):
        significance.rank_correlation_difference([1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
