"""Neighbourhoods: a partition of the space by spherical k-means, each cell large enough to be judged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitoring.arrays import IntArray
from monitoring.search import spherical_kmeans

MAX_CELLS: Final = 64
MIN_ITEMS: Final = 8
MIN_SHARE: Final = 0.005
MEDOIDS: Final = 5


@dataclass(frozen=True, slots=True)
class Cell:
    """One neighbourhood: a name a person can read, its most typical reference items, its expected share."""

    index: int
    label: str | None
    labels: tuple[tuple[str, float], ...]
    medoids: tuple[str, ...]
    share: float


def nearest(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> IntArray:
    """The nearest centroid of each vector by cosine, (n,) int64."""
    if not len(vectors):
        return np.zeros(0, dtype=np.int64)
    return np.asarray(np.argmax(vectors @ centroids.T, axis=1), dtype=np.int64)


def fit_centroids(fit: NDArray[np.float32], calibration: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Centroids (K, d) of cells that hold at least MIN_ITEMS and MIN_SHARE of the calibration items each.

    K starts at the square root of their number, at most MAX_CELLS; then the emptiest cell is dissolved into its
    neighbours until every cell has enough (one cell always has). More cells name the neighbourhoods better; with fewer
    items in a cell its share is hardly known, and windows of 256 expect less than one item in it.
    """
    enough = max(MIN_ITEMS, int(np.ceil(MIN_SHARE * len(calibration))))
    wanted = max(1, min(round(float(np.sqrt(len(calibration)))), MAX_CELLS, len(fit) // 4))
    centroids = spherical_kmeans(fit, wanted, seed)
    while len(centroids) > 1:
        counts = np.bincount(nearest(calibration, centroids), minlength=len(centroids))
        if counts.min() >= enough:
            break
        centroids = np.delete(centroids, int(counts.argmin()), axis=0)
    return centroids


def describe(
    fit: NDArray[np.float32],
    fit_ids: Sequence[str],
    fit_labels: Sequence[str] | None,
    centroids: NDArray[np.float32],
    shares: NDArray[np.float64],
) -> tuple[Cell, ...]:
    """Name every cell by the labels of its fit items and its medoids (the fit items nearest to the centroid)."""
    cells = []
    members_of = nearest(fit, centroids)
    for j, centroid in enumerate(centroids):
        members = np.flatnonzero(members_of == j)
        typical = members[np.argsort(-(fit[members] @ centroid), kind="stable")[:MEDOIDS]]
        top: tuple[tuple[str, float], ...] = ()
        if fit_labels is not None and len(members):
            counted = Counter(fit_labels[int(i)] for i in members)
            ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:3]
            top = tuple((label, round(count / len(members), 4)) for label, count in ranked)
        cells.append(
            Cell(j, top[0][0] if top else None, top, tuple(fit_ids[int(i)] for i in typical), float(shares[j])),
        )
    return tuple(cells)
