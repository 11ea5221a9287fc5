"""Bets against "nothing has changed": factors by which evidence grows with each observation, at most 1 on average.

A bet multiplies a stake by e(observation). While traffic is like the calibration items, E[e] <= 1 whatever was seen
before, so that nobody grows rich by it; each bet grows fast when one particular thing has happened. There are three
families, all functions of counts, so that a batch's log factor is a product of its counts with constants:

novelty: the p-value fell into bin k (the bins of `window.P_VALUE_EDGES`). Given the calibration scores, the chance of
p <= edge_k is Beta(l_k, n_cal + 1 - l_k) with l_k the largest rank at or below the edge; a_k is its upper quantile, so
the chance is at most a_k for all k at once with probability 1 - DELTA_NOVELTY. For an alternative where a share s of
the traffic has p-values with the distribution function G: e = 1 - s + s (G(a_k) - G(a_k-1)) / (a_k - a_k-1) in bin k.
With G concave this never grows with the p-value: e = const + sum_k b_k 1{p <= edge_k} with all b_k >= 0, hence
E[e] <= const + sum_k b_k a_k = 1.
cell: the observation fell into cell j, whose share is at most a_j (Clopper-Pearson, with probability 1 - DELTA_CELLS
for all cells at once). e = f inside and (1 - f a_j) / (1 - a_j) outside, for a share grown to f a_j.
segment: the novelty bets on one segment's traffic alone. A segment that never was like the reference is itself a find.

The factors' form: Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting (JRSS B 2024); the
calibration-conditional bounds: Bates et al., Testing for outliers with conformal p-values (Annals of Statistics 2023).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from monitoring.statistics import novel_rank
from monitoring.window import P_VALUE_EDGES

Vector = NDArray[np.float64]

DELTA_NOVELTY: Final = 0.05
DELTA_CELLS: Final = 0.05
MAX_SEGMENTS: Final = 64
"""Named segments that have bets of their own; what comes later shares one more place."""

# The edges that bets are placed at; further up novelty hardly differs from chance.
_EDGES: Final = tuple(edge for edge in P_VALUE_EDGES if edge <= 0.5)
# Exponents c of G(a) = a^c: near 0 what is far from everything known, near 1 what is almost like it; and shares s of
# such traffic. Chosen on streams of CLINC's intents with commands or banking texts among them.
_SHAPES: Final = (0.02, 0.3, 0.6)
_STRENGTHS: Final = (0.01, 0.03, 0.1, 0.4)
_SEGMENT_SHAPES: Final = (0.02, 0.4)
_SEGMENT_STRENGTHS: Final = (0.03, 0.3)
_FACTORS: Final = (1.4, 2.0, 5.0)
# A cell cannot grow to more than this share by a bet: the stake left outside must stay above nothing.
_MOST: Final = 0.9
# How the stake is divided between the families.
_NOVELTY, _CELLS, _SEGMENTS = 0.6, 0.3, 0.1


@dataclass(frozen=True, eq=False)
class Bets:
    """The bets of one reference with P bins and K cells: log factors, and weights that sum to 1 over all of them.

    novelty (B, P), segment (S, P): log e of an observation in each p-value bin. inside, outside (K, F): log e of one
    in the cell and of one elsewhere. novelty_weights (B,), cell_weights (K, F), segment_weights (S,): the last of one
    segment, of which there may be MAX_SEGMENTS + 1.
    """

    novelty: Vector
    inside: Vector
    outside: Vector
    segment: Vector
    novelty_weights: Vector
    cell_weights: Vector
    segment_weights: Vector


@lru_cache(maxsize=64)
def bets(n_cal: int, cells: tuple[int, ...]) -> Bets:
    """The bets against a reference of n_cal calibration items, `cells` of them in each cell."""
    novelty = novelty_factors(n_cal, _SHAPES, _STRENGTHS)
    segment = novelty_factors(n_cal, _SEGMENT_SHAPES, _SEGMENT_STRENGTHS)
    inside, outside = cell_factors(n_cal, cells)
    places = MAX_SEGMENTS + 1
    return Bets(
        novelty=novelty,
        inside=inside,
        outside=outside,
        segment=segment,
        novelty_weights=np.full(len(novelty), _NOVELTY / len(novelty)),
        cell_weights=np.full(inside.shape, _CELLS / inside.size),
        segment_weights=np.full(len(segment), _SEGMENTS / (places * len(segment))),
    )


def novelty_bounds(n_cal: int) -> tuple[tuple[int, ...], Vector]:
    """Numbers of the edges that bets are placed at, and upper bounds a_k of the chance of a p-value at or below them.

    Edges below the smallest possible p-value, 1 / (n_cal + 1), are left out, and edges that hold no other ranks.
    """
    ranks = [novel_rank(n_cal, edge) for edge in _EDGES]
    used = tuple(i for i, rank in enumerate(ranks) if rank > (ranks[i - 1] if i else 0))
    l = np.array([ranks[i] for i in used], dtype=np.float64)  # noqa: E741  the name in the formula
    return used, np.asarray(betaincinv(l, n_cal + 1 - l, 1 - DELTA_NOVELTY / max(1, len(used))))


def novelty_factors(n_cal: int, shapes: tuple[float, ...], strengths: tuple[float, ...]) -> Vector:
    """log e by p-value bin, (shapes x strengths, bins); all zero, no bet at all, without calibration items."""
    bins = len(P_VALUE_EDGES)
    used, bounds = novelty_bounds(n_cal)
    factors = np.ones((len(shapes) * len(strengths), bins))
    if not used:
        return np.zeros_like(factors)
    below = np.diff(bounds, prepend=0.0, append=1.0)
    # Which of the bets' bins each p-value bin lies in.
    place = np.searchsorted(used, np.arange(bins), side="left")
    for i, shape in enumerate(shapes):
        risen = np.diff(bounds**shape, prepend=0.0, append=1.0) / below
        for j, strength in enumerate(strengths):
            factors[i * len(strengths) + j] = (1 - strength + strength * risen)[place]
    return np.asarray(np.log(factors))


def cell_factors(n_cal: int, cells: tuple[int, ...]) -> tuple[Vector, Vector]:
    """log e inside and outside of each cell, (K, F) each; zero, no bet, for a single cell or without calibration."""
    counts = np.array(cells, dtype=np.float64)[:, None]
    if len(cells) < 2 or not n_cal:
        return np.zeros((len(cells), len(_FACTORS))), np.zeros((len(cells), len(_FACTORS)))
    bounds = betaincinv(counts + 1, np.maximum(n_cal - counts, 0.5), 1 - DELTA_CELLS / len(cells))
    grown = np.maximum(bounds, np.minimum(np.array(_FACTORS) * bounds, _MOST))
    outside = np.where(bounds < 1, (1 - grown) / np.maximum(1 - bounds, 1e-12), 1.0)
    return np.asarray(np.log(grown / bounds)), np.asarray(np.log(outside))
