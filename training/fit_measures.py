"""Measures of adapted rows for the watch on a fit: margins, prototypes of labels, neighbourhoods. Pure functions."""

from typing import Final

import numpy as np
import numpy.typing as npt

from training.problem import Indices, Vectors

NEIGHBORS: Final = 10
MAX_PROTOTYPES: Final = 512
NOISE: Final = 0.3
"""Length of the noise that is added to a base vector of length 1; the two then have a cosine of 0.958."""

Cosines = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def margin_measures(cosines: Cosines, own: Mask, foreign: Mask) -> dict[str, float]:
    """Margins of queries (m,) against index rows (n,): cosine of the nearest own row less that of the nearest foreign.

    Args:
        cosines: (m, n).
        own, foreign: (m, n) which index rows are of a query's kind, and which are of another.

    Returns:
        margin_p10, margin_median, margin_p90: Quantiles over the queries that have rows of both sorts.
        margin_below_zero: Share of those whose nearest row is a foreign one. All NaN where there is no such query.
    """
    asked = own.any(axis=1) & foreign.any(axis=1)
    if not asked.any():
        return dict.fromkeys(("margin_p10", "margin_median", "margin_p90", "margin_below_zero"), float("nan"))
    near = np.where(own, cosines, -np.inf).max(axis=1)[asked]
    far = np.where(foreign, cosines, -np.inf).max(axis=1)[asked]
    low, middle, high = np.quantile(near - far, [0.1, 0.5, 0.9])
    return {
        "margin_p10": float(low),
        "margin_median": float(middle),
        "margin_p90": float(high),
        "margin_below_zero": float(np.mean(near < far)),
    }


def prototype_measures(index: Vectors, index_labels: Indices, queries: Vectors, labels: Indices) -> dict[str, float]:
    """Where the labels lie. A prototype is the mean of a label's index rows (n, d), scaled to unit length (Snell et
    al. 2017, arXiv 1703.05175, section 2.2); a distance is 1 less the cosine, in [0, 2].

    Returns:
        prototype_nearest: The smallest distance between two prototypes, of at most MAX_PROTOTYPES, evenly chosen.
        prototype_own: Mean distance of a query (m, d) to the prototype of its label, where that has one.
        Values that cannot be measured are NaN.
    """
    order = np.argsort(index_labels, kind="stable")
    names, starts = np.unique(index_labels[order], return_index=True)
    sums = np.add.reduceat(index[order].astype(np.float64), starts, axis=0)
    prototypes = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    chosen = prototypes[some(len(prototypes), MAX_PROTOTYPES)]
    between = 1 - (chosen @ chosen.T)[np.triu_indices(len(chosen), k=1)]
    places = np.minimum(np.searchsorted(names, labels), len(names) - 1)
    known = names[places] == labels
    to_own = 1 - np.sum(queries[known] * prototypes[places[known]], axis=1)
    return {
        "prototype_nearest": float(between.min()) if len(between) else float("nan"),
        "prototype_own": float(to_own.mean()) if len(to_own) else float("nan"),
    }


def nearest(cosines: Cosines, counted: Mask) -> Mask:
    """(m, n) the ten nearest of the counted index rows of each query; all of them where there are fewer."""
    count = min(NEIGHBORS, cosines.shape[1])
    found = np.zeros(cosines.shape, dtype=np.bool_)
    places = np.argpartition(-np.where(counted, cosines, -np.inf), count - 1, axis=1)[:, :count]
    np.put_along_axis(found, places, True, axis=1)
    return np.asarray(found & counted, dtype=np.bool_)


def neighbor_measures(now: Mask, before: Mask, own: Mask) -> dict[str, float]:
    """How far neighbourhoods are still the base's, and of how many of a query's kind they consist.

    Args:
        now, before: (m, n) the nearest index rows of each query, from `nearest`.
        own: (m, n) the index rows of a query's kind.

    Returns:
        neighbor_overlap: Mean share of a query's neighbours that were its neighbours in the base.
        neighbor_agreement: Mean share of a query's neighbours that are of its kind, out of those that could be: where
            a query has fewer rows of its kind than neighbours, all of them among the neighbours are a share of 1.
        NaN where no query has a neighbour, or a row of its kind.
    """
    sizes = now.sum(axis=1)
    able = np.minimum(sizes, own.sum(axis=1))
    shared, agreed = (now & before).sum(axis=1), (now & own).sum(axis=1)
    return {
        "neighbor_overlap": _mean_share(shared, sizes),
        "neighbor_agreement": _mean_share(agreed, able),
    }


def shaken(base: Vectors, seed: int = 0) -> Vectors:
    """Base vectors (n, d) with Gaussian noise of NOISE times their length, scaled back to their length."""
    noise = np.random.default_rng(seed).normal(size=base.shape).astype(np.float32)
    lengths = np.linalg.norm(base, axis=1, keepdims=True)
    noise *= NOISE * lengths / np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-12)
    moved = base + noise
    return np.asarray(moved * (lengths / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)), np.float32)


def some(count: int, most: int) -> Indices:
    """At most `most` of the row numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _mean_share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> float:
    there = whole > 0
    return float(np.mean(part[there] / whole[there])) if there.any() else float("nan")
