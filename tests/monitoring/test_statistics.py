"""The formulas of a window, against hand counts, simulation of the null from first principles, and scipy."""

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency, kstest

from monitoring import statistics
from monitoring.errors import VectorsRefused


@pytest.mark.parametrize(
    ("n_cal", "alpha0"), [(2000, 0.01), (999, 0.01), (998, 0.02), (500, 0.02), (130, 0.05), (50, 0.05)]
)
def test_alpha0_is_the_smallest_with_ten_items_beyond_the_line(n_cal: int, alpha0: float) -> None:
    assert statistics.choose_alpha0(n_cal) == alpha0


@pytest.mark.parametrize(("n_cal", "alpha0"), [(999, 0.01), (130, 0.05), (50, 0.05)])
def test_the_novelty_tail_is_the_chance_seen_when_scores_are_exchangeable(n_cal: int, alpha0: float) -> None:
    """Draw calibration and window scores from one law, 40,000 times, and compare the whole tail."""
    rng = np.random.default_rng(n_cal)
    n, runs, rank = 64, 40_000, statistics.novel_rank(n_cal, alpha0)
    # The rank-th largest of n_cal uniforms is Beta; drawing the scores themselves keeps the test independent of that.
    line = np.concatenate(
        [np.partition(rng.random((1000, n_cal)), n_cal - rank, axis=1)[:, n_cal - rank] for _ in range(runs // 1000)]
    )
    novel = (rng.random((runs, n)) > line[:, None]).sum(axis=1)
    for x in range(1, 12):
        expected = statistics.novelty_tail(n, x, n_cal, alpha0)
        seen = int((novel >= x).sum())
        assert binomtest(seen, runs, expected).pvalue > 1e-4, (x, seen / runs, expected)


def test_a_plain_binomial_would_alarm_too_often_and_the_exact_one_does_not() -> None:
    rng = np.random.default_rng(11)
    n, n_cal, alpha0, level, runs = 512, 130, 0.05, 0.01, 20_000
    rank = statistics.novel_rank(n_cal, alpha0)
    rate = rng.beta(rank, n_cal + 1 - rank, size=runs)
    novel = rng.binomial(n, rate)
    exact = novel >= statistics.novelty_threshold(n, n_cal, alpha0, level)
    from scipy.stats import binom

    plain = binom.sf(novel - 1, n, rank / (n_cal + 1)) <= level
    assert binomtest(int(exact.sum()), runs, level, alternative="greater").pvalue > 1e-3
    assert plain.mean() > 5 * level


@pytest.mark.parametrize("level", [0.05, 1e-3, 1.28e-4])
def test_the_threshold_is_the_first_count_that_rare(level: float) -> None:
    x = statistics.novelty_threshold(256, 2000, 0.01, level)
    assert statistics.novelty_tail(256, x, 2000, 0.01) <= level < statistics.novelty_tail(256, x - 1, 2000, 0.01)


def test_no_calibration_means_nothing_is_ever_significant() -> None:
    assert statistics.novelty_threshold(256, 0, 0.05, 0.01) == 257
    assert statistics.novelty_tail(256, 0, 0, 0.05) == 1.0
    assert statistics.occupancy_test([5, 5], [0.5, 0.5], 0).p_value == 1.0
    assert statistics.occupancy_test([0, 0], [0.5, 0.5], 100).p_value == 1.0


def test_occupancy_is_pearsons_test_of_two_samples() -> None:
    window, reference = np.array([30, 12, 8, 50]), np.array([90, 60, 60, 190])
    found = statistics.occupancy_test(window, reference / reference.sum(), int(reference.sum()))
    expected = chi2_contingency(np.stack([window, reference]), correction=False)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.dof == 3


def test_without_the_reference_size_a_small_reference_alarms_on_itself() -> None:
    """The factor 1 + n / n_cal: dropping it (n_cal counted as endless) inflates the type-I error many times."""
    rng = np.random.default_rng(2)
    pi, n, n_cal = np.full(8, 1 / 8), 256, 130
    kept, dropped = 0, 0
    for _ in range(2000):
        shares = rng.multinomial(n_cal, pi) / n_cal
        counts = rng.multinomial(n, pi)
        kept += statistics.occupancy_test(counts, shares, n_cal).p_value <= 0.01
        dropped += statistics.occupancy_test(counts, shares, 10**9).p_value <= 0.01
    assert binomtest(kept, 2000, 0.01, alternative="greater").pvalue > 1e-3
    assert dropped / 2000 > 0.2


def test_total_variation_of_known_shares() -> None:
    assert statistics.total_variation([50, 50, 0], [0.5, 0.25, 0.25]) == pytest.approx(0.25)
    assert statistics.total_variation([10, 0], [0.0, 1.0]) == 1.0


@pytest.mark.parametrize(("n", "n_cal", "k"), [(256, 2000, 40), (256, 130, 8), (512, 600, 24)])
def test_the_null_mean_of_total_variation_is_what_simulation_gives(n: int, n_cal: int, k: int) -> None:
    rng = np.random.default_rng(k)
    pi = rng.dirichlet(np.full(k, 4.0))
    seen = [statistics.total_variation(rng.multinomial(n, pi), rng.multinomial(n_cal, pi) / n_cal) for _ in range(2000)]
    assert np.mean(seen) == pytest.approx(statistics.total_variation_null_mean(n, pi, n_cal), rel=0.03)


def test_the_effect_size_does_not_overstate_on_average() -> None:
    rng = np.random.default_rng(4)
    pi = np.full(20, 1 / 20)
    moved = np.r_[np.full(10, 0.065), np.full(10, 0.035)]
    true = 0.5 * np.abs(moved - pi).sum()
    excess = [
        statistics.total_variation_excess(rng.multinomial(256, moved), rng.multinomial(2000, pi) / 2000, 2000)
        for _ in range(1000)
    ]
    assert 0 < np.mean(excess) <= true


def test_cell_scores_are_standard_normal_when_nothing_moved() -> None:
    rng = np.random.default_rng(6)
    pi = np.full(10, 0.1)
    z = [
        statistics.cell_z_scores(rng.multinomial(400, pi), rng.multinomial(900, pi) / 900, 900)[0] for _ in range(3000)
    ]
    assert kstest(z, "norm").pvalue > 1e-3
    assert np.std(z) == pytest.approx(1.0, abs=0.05)


def test_rate_interval_is_clopper_pearson() -> None:
    expected = binomtest(7, 256).proportion_ci(method="exact")
    assert statistics.rate_interval(7, 256) == pytest.approx((expected.low, expected.high))
    assert statistics.rate_interval(0, 0) == (0.0, 1.0)
    assert statistics.rate_interval(5, 5)[1] == 1.0


def test_counts_and_shares_must_match() -> None:
    with pytest.raises(VectorsRefused, match="one length"):
        statistics.occupancy_test([1, 2, 3], [0.5, 0.5], 100)
