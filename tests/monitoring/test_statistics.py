"""The formulas of a window, against hand counts, simulation of the null from first principles, and scipy."""

import numpy as np
import pytest
from scipy.stats import binomtest, chi2, chi2_contingency, kstest

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


def test_occupancy_is_cressie_and_reads_test_of_two_samples() -> None:
    window, reference = np.array([30, 12, 8, 50]), np.array([90, 60, 60, 190])
    found = statistics.occupancy_test(window, reference / reference.sum(), int(reference.sum()))
    expected = chi2_contingency(np.stack([window, reference]), correction=False, lambda_="cressie-read")
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.dof == 3


@pytest.mark.parametrize(
    ("k", "share", "n_cal", "n"), [(64, 0.005, 20_000, 256), (40, 0.01, 2000, 256), (64, 0.003, 20_000, 64)]
)
def test_occupancy_keeps_its_level_where_pearsons_may_not(k: int, share: float, n_cal: int, n: int) -> None:
    """Cells that expect a fifth of an item to two, in 20,000 windows; nothing has changed in any of them."""
    rng = np.random.default_rng(k + n)
    pi = np.maximum(rng.dirichlet(np.full(k, 3.0)), share)
    pi /= pi.sum()
    found, pearson = np.empty(20_000), np.empty(20_000)
    windows, parts = rng.multinomial(n, pi, 20_000), rng.multinomial(n_cal, pi, 20_000)
    for i, (window, items) in enumerate(zip(windows, parts, strict=True)):
        found[i] = statistics.occupancy_test(window, items / n_cal, n_cal).p_value
        expected = (window + items) * n / (n + n_cal)
        squares = np.sum((window - expected) ** 2 / np.maximum(expected, 1e-9)) * (1 + n / n_cal)
        pearson[i] = chi2.sf(squares, int((expected > 0).sum()) - 1)
    for level in (0.05, 0.01, 0.001):
        assert binomtest(int((found <= level).sum()), 20_000, level, alternative="greater").pvalue > 1e-3, level
    if n == 64:
        assert binomtest(int((pearson <= 0.01).sum()), 20_000, 0.01, alternative="greater").pvalue < 1e-3


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


def test_the_interval_of_total_variation_holds_the_truth() -> None:
    rng = np.random.default_rng(5)
    pi = np.full(20, 1 / 20)
    for moved in (pi, np.r_[np.full(10, 0.065), np.full(10, 0.035)], np.r_[np.full(4, 0.21), np.full(16, 0.01)]):
        truth, held = 0.5 * np.abs(moved - pi).sum(), 0
        for _ in range(500):
            counts, items = rng.multinomial(256, moved), rng.multinomial(1500, pi)
            low, high = statistics.total_variation_interval(counts, items / 1500, 1500)
            held += low <= truth <= high
        assert held >= 475 - 15
    assert statistics.total_variation_interval([0, 0], [0.5, 0.5], 10) == (0.0, 1.0)


@pytest.mark.parametrize(("rate", "n_cal"), [(0.01, 1500), (0.05, 1500), (0.3, 1500), (0.05, 130)])
def test_the_interval_of_the_novelty_ratio_holds_the_truth(rate: float, n_cal: int) -> None:
    """The truth is the rate of novel items over the one that calibration meant to cut off."""
    rng = np.random.default_rng(n_cal)
    alpha0 = statistics.choose_alpha0(n_cal)
    rank = statistics.novel_rank(n_cal, alpha0)
    held = 0
    for _ in range(500):
        line = float(rng.beta(rank, n_cal + 1 - rank))
        true_rate = max(rate, line)
        low, high = statistics.novelty_ratio_interval(rng.binomial(256, true_rate), 256, n_cal, alpha0)
        held += low <= true_rate / line <= high
    assert held >= 475 - 15
    assert statistics.novelty_ratio_interval(0, 0, n_cal, alpha0) == (0.0, float("inf"))
    low, high = statistics.novelty_ratio_interval(0, 256, n_cal, alpha0)
    assert low == 0.0
    assert 0 < high < 10


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
