"""Neighbourhoods: a partition of the space by spherical k-means, each cell large enough to be judged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from monitoring.arrays import IntArray

MAX_CELLS: Final = 64
ITEMS_PER_CELL: Final = 40
MIN_ITEMS: Final = 15
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
    """Centroids (K, d) of cells that hold at least MIN_ITEMS calibration items each (K = 1 always qualifies).

    K starts at one cell for ITEMS_PER_CELL calibration items, at most MAX_CELLS; then the emptiest cell is dissolved
    into its neighbours until every cell has enough. K depends on the calibration items only through their counts, and
    the centroids only on the fit part, so a cell's calibration count is a fair sample of its traffic.
    """
    wanted = int(np.clip(len(calibration) // ITEMS_PER_CELL, 4, MAX_CELLS))
    wanted = max(1, min(wanted, len(fit) // 4, max(1, len(calibration) // MIN_ITEMS)))
    centroids = _spherical_kmeans(fit, wanted, seed)
    while len(centroids) > 1:
        counts = np.bincount(nearest(calibration, centroids), minlength=len(centroids))
        if counts.min() >= MIN_ITEMS:
            break
        centroids = np.delete(centroids, int(counts.argmin()), axis=0)
    return centroids


def _spherical_kmeans(fit: NDArray[np.float32], k: int, seed: int) -> NDArray[np.float32]:
    if k == 1:
        mean = fit.mean(axis=0, keepdims=True)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)
    kmeans = faiss.Kmeans(
        fit.shape[1], k, niter=25, nredo=3, seed=seed, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=max(256, len(fit) // k + 1),
    )  # fmt: skip
    kmeans.train(fit)
    return np.array(kmeans.centroids, dtype=np.float32).reshape(k, fit.shape[1])


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
