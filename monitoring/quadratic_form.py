"""The tail of a weighted sum of squares, Q = sum_i w_i Z_i^2 with independent standard normal Z_i, by saddlepoint.

The law of a squared distance between two means of many coordinates. The approximation is that of Lugannani and Rice in
the form of Kuonen (Saddlepoint approximations for distributions of quadratic forms in normal variables, Biometrika 86,
1999, equation 3); its relative error stays at a few per cent however far out the tail is.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

_STEPS = 48
# Standard deviations from the mean within which the formula, 0 / 0 at the mean itself, gives way to its limit there.
_NEAR = 1e-3


def tail(weights: ArrayLike, q: float) -> float:
    """P(Q >= q) of weights (r,) >= 0; 1 for q <= 0, and 0 for q > 0 when every weight is 0."""
    w = _positive(weights)
    if q <= 0:
        return 1.0
    if not len(w):
        return 0.0
    # K' rises from 0 at minus infinity to infinity at 1 / (2 max w), so halving finds the one root of K'(t) = q.
    low, high = -len(w) / (2 * q), 1 / (2 * float(w.max()))
    for _ in range(_STEPS):
        t = (low + high) / 2
        if float(np.sum(w / (1 - 2 * t * w))) < q:
            low = t
        else:
            high = t
    return _tail_at(w, (low + high) / 2)


def quantile(weights: ArrayLike, level: float) -> float:
    """The q with P(Q >= q) = level, level in (0, 1); 0 when every weight is 0."""
    w = _positive(weights)
    if not len(w):
        return 0.0
    edge = 1 / (2 * float(w.max()))
    low, high = -edge, edge
    while _tail_at(w, low) < level:
        low *= 2
    for _ in range(_STEPS):
        t = (low + high) / 2
        if _tail_at(w, t) > level:
            low = t
        else:
            high = t
    return float(np.sum(w / (1 - 2 * low * w)))


def _positive(weights: ArrayLike) -> NDArray[np.float64]:
    w = np.asarray(weights, dtype=np.float64)
    return w[w > 1e-12 * float(w.max(initial=0.0))]


def _tail_at(w: NDArray[np.float64], t: float) -> float:
    """P(Q >= K'(t)), where K(t) = -1/2 sum log(1 - 2 t w) is the cumulant generating function."""
    rest = 1 - 2 * t * w
    q, deviation = float(np.sum(w / rest)), float(np.sqrt(2 * np.sum(w**2)))
    away = (q - float(w.sum())) / deviation
    if abs(away) <= _NEAR:
        skewness = 8 * float(np.sum(w**3)) / deviation**3
        return float(ndtr(-away - skewness / 6))
    cumulant = -0.5 * float(np.sum(np.log(rest)))
    root = float(np.sign(t) * np.sqrt(max(0.0, 2 * (t * q - cumulant))))
    steep = t * float(np.sqrt(2 * np.sum((w / rest) ** 2)))
    z = root + np.log(steep / root) / root
    return float(np.exp(log_ndtr(-z))) if z > 0 else float(ndtr(-z))
