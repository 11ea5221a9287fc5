"""The mathematics of a window: exact null of the novelty count, occupancy test, and how large a shift is.

Pure functions on counts. n is the number of observations in a window, n_cal the number of calibration items,
counts (K,) how many observations fell into each cell, pi (K,) the share of the calibration items in each cell.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, betaln, chdtrc

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


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The occupancy test of one window: statistic, degrees of freedom, p-value."""

    statistic: float
    dof: int
    p_value: float


def occupancy_test(counts: ArrayLike, pi: ArrayLike, n_cal: int) -> Occupancy:
    """Chi-square test that a window's cells are drawn as the calibration items' were.

    X2 = sum_j (c_j - n pi_j)^2 / (n p_j (1 + n / n_cal)), with p_j the pooled share (c_j + n_cal pi_j) / (n + n_cal).
    The factor 1 + n / n_cal pays for pi being estimated; without it a small reference alarms on its own sampling
    error. With the pooled share it is exactly Pearson's test of homogeneity of two samples, whose tail stays close
    to chi2 with K - 1 degrees of freedom where the unpooled form is inflated (see tests/monitoring/test_type_one.py).
    """
    observed, shares, n = _checked(counts, pi)
    if n == 0 or n_cal == 0 or len(observed) < 2:
        return Occupancy(0.0, 0, 1.0)
    pooled = (observed + n_cal * shares) / (n + n_cal)
    used = pooled > 0
    difference = observed[used] - n * shares[used]
    statistic = float(np.sum(difference**2 / (n * pooled[used] * (1 + n / n_cal))))
    dof = int(used.sum()) - 1
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
