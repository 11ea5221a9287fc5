"""The mathematics of a window: exact null of the novelty count, occupancy test, and how large a shift is.

Pure functions on counts. n is the number of observations in a window, n_cal the number of calibration items,
counts (K,) how many observations fell into each cell, pi (K,) the share of the calibration items in each cell.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, betaln, chdtrc, ndtri

from monitoring.errors import VectorsRefused

Vector = NDArray[np.float64]

ALPHA0_CHOICES: Final = (0.01, 0.02, 0.05)
MIN_NOVEL_RANK: Final = 10


def novel_rank(n_cal: int, alpha0: float) -> int:
    """The largest conformal rank that counts as novel, l = floor(alpha0 (n_cal + 1)).

    An observation has rank 1 + #{calibration scores >= its score}; its p-value is rank / (n_cal + 1). Ranks are
    compared as integers, so no rounding decides whether a vector is novel.
    """
    return int(np.floor(alpha0 * (n_cal + 1) + 1e-9))


def choose_alpha0(n_cal: int) -> float:
    """The smallest of 0.01, 0.02, 0.05 whose rank is at least 10, else 0.05.

    Fewer than ten calibration items beyond the line make the true rate of novel items so uncertain that the exact
    threshold (see `novelty_tail`) moves far out; a higher line then finds drift sooner.
    """
    return next((a for a in ALPHA0_CHOICES if novel_rank(n_cal, a) >= MIN_NOVEL_RANK), ALPHA0_CHOICES[-1])


def novelty_tail(n: int, x: int, n_cal: int, alpha0: float) -> float:
    """P(X >= x): the exact chance of x or more novel items among n, when all are exchangeable with the calibration.

    Given the calibration scores, the true rate q of items of rank <= l is Beta(l, n_cal + 1 - l), as an order
    statistic of uniforms; so X ~ BetaBinomial(n, l, n_cal + 1 - l) (Bates et al., Testing for outliers with
    conformal p-values, Annals of Statistics 2023, section 2). A plain binomial would forget that q is only
    estimated. With tied scores the p-values are conservative and so is this.
    """
    if x <= 0:
        return 1.0
    rank = novel_rank(n_cal, alpha0)
    if rank == 0 or x > n:
        return 0.0
    tail = np.exp(_beta_binomial(np.arange(x, n + 1), n, rank, n_cal + 1 - rank))
    return float(min(1.0, tail.sum()))


def novelty_threshold(n: int, n_cal: int, alpha0: float, level: float) -> int:
    """The smallest count x with P(X >= x) <= level; n + 1 when no count is that rare."""
    rank = novel_rank(n_cal, alpha0)
    if rank == 0 or n == 0:
        return n + 1
    pmf = np.exp(_beta_binomial(np.arange(n + 1), n, rank, n_cal + 1 - rank))
    tails = np.cumsum(pmf[::-1])[::-1]
    rare = np.flatnonzero(tails <= level)
    return int(rare[0]) if rare.size else n + 1


def _beta_binomial(k: NDArray[np.int_], n: int, a: float, b: float) -> NDArray[np.float64]:
    """Log probabilities of BetaBinomial(n, a, b) at counts k. (scipy.stats has it too, at 46 MB of the service.)"""
    choose = -betaln(1 + n - k, 1 + k) - np.log(n + 1)
    logs: NDArray[np.float64] = choose + betaln(k + a, n - k + b) - betaln(a, b)
    return logs


def rate_interval(x: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a rate from x events among n."""
    if n == 0:
        return 0.0, 1.0
    tail = (1.0 - confidence) / 2
    low = 0.0 if x == 0 else float(betaincinv(x, n - x + 1, tail))
    high = 1.0 if x == n else float(betaincinv(x + 1, n - x, 1 - tail))
    return low, high


def novelty_ratio_interval(x: int, n: int, n_cal: int, alpha0: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the true rate of novel items over that among calibration items, from x novel ones among n.

    Both rates are estimates: that of the window is binomial, that of the calibration items Beta (`novelty_tail`). Their
    intervals are joined on the log scale (Zou, Donner, Statistics in Medicine 27, 2008). (0, inf) without calibration.
    """
    rank = novel_rank(n_cal, alpha0)
    if rank == 0 or n == 0:
        return 0.0, float("inf")
    tail = (1.0 - confidence) / 2
    ends = np.array(rate_interval(x, n, confidence))
    base = rank / (n_cal + 1)
    spread = np.log(np.array([betaincinv(rank, n_cal + 1 - rank, 1 - tail), betaincinv(rank, n_cal + 1 - rank, tail)]))
    if x == 0:
        return 0.0, float(ends[1] / np.exp(spread[1]))
    rate = np.log(x / n)
    widths = np.hypot(np.log(ends) - rate, spread - np.log(base))
    low, high = np.exp(rate - np.log(base) + np.array([-1, 1]) * widths)
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The occupancy test of one window: statistic, degrees of freedom, p-value."""

    statistic: float
    dof: int
    p_value: float


def occupancy_test(counts: ArrayLike, pi: ArrayLike, n_cal: int) -> Occupancy:
    """Test that a window's cells are drawn as the calibration items' were: chi2 with K - 1 degrees of freedom.

    The power divergence of Cressie and Read (Multinomial goodness-of-fit tests, JRSS B 46, 1984) with lambda = 2/3 in
    the table of two samples, 9/5 sum O ((O / E)^(2/3) - 1), E from the pooled shares. A pi that is itself an estimate
    is paid for, so a small reference does not alarm on its own sampling error. Pearson's (lambda = 1) exceeds its
    level where cells expect only one or two items, twice at 0.001; this one stays within it.
    """
    observed, shares, n = _checked(counts, pi)
    if n == 0 or n_cal == 0 or len(observed) < 2:
        return Occupancy(0.0, 0, 1.0)
    table = np.stack([observed, n_cal * shares])
    table = table[:, table.sum(axis=0) > 0]
    expected = np.outer([n, n_cal], table.sum(axis=0) / (n + n_cal))
    statistic = max(0.0, float(1.8 * np.sum(table * ((table / expected) ** (2 / 3) - 1))))
    dof = table.shape[1] - 1
    return Occupancy(statistic, dof, float(chdtrc(dof, statistic)) if dof else 1.0)


def total_variation(counts: ArrayLike, pi: ArrayLike) -> float:
    """TV = 1/2 sum_j |c_j / n - pi_j|: the share of traffic that would have to move to another cell."""
    observed, shares, n = _checked(counts, pi)
    return float(0.5 * np.abs(observed / n - shares).sum()) if n else 0.0


def total_variation_null_mean(n: int, pi: ArrayLike, n_cal: int) -> float:
    """What TV is on average when nothing has changed: E|N(0, v)| = sqrt(2 v / pi) summed over the cells.

    v_j = pi_j (1 - pi_j) (1 / n + 1 / n_cal). Sampling alone makes TV of a small window large.
    """
    shares = np.asarray(pi, dtype=np.float64)
    if n == 0 or n_cal == 0:
        return 0.0
    variance = shares * (1 - shares) * (1 / n + 1 / n_cal)
    return float(0.5 * np.sqrt(2 * variance / np.pi).sum())


def total_variation_excess(counts: ArrayLike, pi: ArrayLike, n_cal: int) -> float:
    """TV above its null mean, at least 0: the effect size of an occupancy alarm.

    It never overstates on average: by the triangle inequality E[TV] <= true TV + the two sampling errors, and the
    null mean is at most their sum, so a window needs a true shift of about this size to show it.
    """
    n = int(np.asarray(counts).sum())
    return max(0.0, total_variation(counts, pi) - total_variation_null_mean(n, pi, n_cal))


def total_variation_interval(
    counts: ArrayLike, pi: ArrayLike, n_cal: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the true total variation: from the excess less, to TV plus, its standard errors; within [0, 1].

    With s_j the sign of c_j / n - pi_j the error of TV is that of 1/2 sum_j s_j (c_j / n - pi_j), whose variance is
    1/4 ((1 - (sum s q)^2) / n + (1 - (sum s pi)^2) / n_cal). TV is too large on average and its excess too small, so
    the interval holds the truth at least as often as stated.
    """
    observed, shares, n = _checked(counts, pi)
    if n == 0 or n_cal == 0:
        return 0.0, 1.0
    q = observed / n
    sign = np.sign(q - shares)
    variance = ((1 - float(sign @ q) ** 2) / n + (1 - float(sign @ shares) ** 2) / n_cal) / 4
    error = float(ndtri(0.5 + confidence / 2)) * float(np.sqrt(max(0.0, variance)))
    low = total_variation_excess(counts, pi, n_cal) - error
    return max(0.0, low), min(1.0, total_variation(counts, pi) + error)


def cell_z_scores(counts: ArrayLike, pi: ArrayLike, n_cal: int) -> Vector:
    """How many standard errors each cell's count lies from its expectation, (K,) float64; 0 for an empty cell."""
    observed, shares, n = _checked(counts, pi)
    if n == 0 or n_cal == 0:
        return np.zeros(len(observed))
    pooled = (observed + n_cal * shares) / (n + n_cal)
    error = np.sqrt(n * pooled * (1 - pooled) * (1 + n / n_cal))
    scores: Vector = np.divide(observed - n * shares, error, out=np.zeros(len(observed)), where=error > 0)
    return scores


def _checked(counts: ArrayLike, pi: ArrayLike) -> tuple[Vector, Vector, int]:
    observed = np.asarray(counts, dtype=np.float64)
    shares = np.asarray(pi, dtype=np.float64)
    if observed.shape != shares.shape or observed.ndim != 1:
        raise VectorsRefused(f"counts {observed.shape} and shares {shares.shape} must be vectors of one length")
    return observed, shares, int(observed.sum())
