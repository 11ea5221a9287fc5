"""Exact nearest neighbours and k-means: the one place that knows faiss.

Exact, because the misses of an approximate index would look like drift. One thread, because the monitor works beside
the runtime that answers requests and must not take its cores. OpenMP keeps that setting for each calling thread, so
every search makes it.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from monitoring.arrays import IntArray

# Queries times dimension from which faiss multiplies matrices instead of going through the rows for each query. Against
# 8,000 rows of 384 a query among a hundred costs 60 us so and 420 us with faiss's own choice of 128,000.
faiss.cvar.distance_compute_blas_threshold = 8 * 384


class FlatIndex:
    """An exact inner-product index of rows (n, d) float32. Safe for concurrent searches."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._index: Any = faiss.IndexFlatIP(rows.shape[1])
        self._index.add(rows)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], IntArray]:
        """Similarities (m, k) descending and row numbers (m, k), k at most the number of rows."""
        if not len(queries):
            return np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
        faiss.omp_set_num_threads(1)
        similarities, rows = self._index.search(queries, k)
        return np.asarray(similarities, dtype=np.float32), np.asarray(rows, dtype=np.int64)


def spherical_kmeans(rows: NDArray[np.float32], k: int, seed: int) -> NDArray[np.float32]:
    """k unit centroids (k, d) of rows (n, d), n >= k, by cosine."""
    if k == 1:
        mean = rows.mean(axis=0, keepdims=True)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)
    kmeans = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=25,
        nredo=2,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, len(rows) // k + 1),
    )
    faiss.omp_set_num_threads(1)
    kmeans.train(rows)
    return np.array(kmeans.centroids, dtype=np.float32).reshape(k, rows.shape[1])
