"""A confidence interval of a mean that may be looked at after every observation, for ever.

An interval for a fixed number of observations is wrong sooner or later when somebody watches it and acts the first
time it looks good. This one holds at all times together.
"""

import math
from dataclasses import dataclass

from scipy.special import betaln

_PRIOR = 0.5
_STEPS = 60


@dataclass(frozen=True, slots=True)
class Bound:
    """What is known of a mean in [0, 1] after n observations: their mean (0 without any) and the interval."""

    n: int
    mean: float
    lower: float
    upper: float


def log_evidence(mean: float, total: float, n: int) -> float:
    """The logarithm of the evidence against a mean in (0, 1), from n observations in [0, 1] that add up to `total`.

    E = B(total + 1/2, n - total + 1/2) / B(1/2, 1/2) / (mean^total (1 - mean)^(n - total)): a likelihood ratio with
    the alternative averaged over Jeffreys' prior (Robbins, Annals of Mathematical Statistics 1970; Howard, Ramdas,
    McAuliffe and Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences, Annals of Statistics 2021,
    section 3.2). Under the true mean E is a martingale for zeros and ones; for any other observations in [0, 1] a
    supermartingale, because x -> (a / m)^x ((1 - a) / (1 - m))^(1 - x) is convex and so has at most the expectation it
    has for a zero or one of the same mean. It depends on the sum and the number alone, so counts of replicas add up.
    """
    mixture = float(betaln(total + _PRIOR, n - total + _PRIOR) - betaln(_PRIOR, _PRIOR))
    return mixture - total * math.log(mean) - (n - total) * math.log1p(-mean)


def bound(total: float, n: int, level: float) -> Bound:
    """The interval of the means against which there is evidence below 1 / level.

    The probability that it ever misses the true mean, over all n together, is at most `level` (Ville's inequality).
    It takes observations whose mean, given those before, stays the same.

    Args:
        total: Sum of n observations in [0, 1].
        level: In (0, 1).

    Raises:
        ValueError: A total outside of [0, n], or a level outside of (0, 1).
    """
    if not 0 <= total <= n or not 0 < level < 1:
        raise ValueError("the total must lie in [0, n] and the level in (0, 1)")
    if n == 0:
        return Bound(0, 0.0, 0.0, 1.0)
    limit = -math.log(level)
    mean = total / n
    lower = 0.0 if total == 0 else _edge(0.0, mean, total, n, limit)
    upper = 1.0 if total == n else _edge(1.0, mean, total, n, limit)
    return Bound(n, mean, lower, upper)


def _edge(outside: float, inside: float, total: float, n: int, limit: float) -> float:
    """Where the evidence crosses the limit, between a mean that is ruled out and one that is not; the outer side."""
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if not 0 < middle < 1 or log_evidence(middle, total, n) >= limit:
            outside = middle
        else:
            inside = middle
    return outside
