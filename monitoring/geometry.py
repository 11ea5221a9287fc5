"""The shape of a cloud of unit vectors, and whether a candidate's cloud has collapsed next to the base's."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from monitoring.arrays import as_matrix

MAX_ROWS: Final = 2_048


def mean_random_pair_cosine(vectors: ArrayLike) -> float:
    """Mean cosine of two different rows of unit vectors (n, d): (n |mean|^2 - 1) / (n - 1). Near 1 is a collapse."""
    x = as_matrix(vectors).astype(np.float64)
    n = len(x)
    if n < 2:
        return float("nan")
    return float((n * np.sum(x.mean(axis=0) ** 2) - np.mean(np.sum(x**2, axis=1))) / (n - 1))


def effective_rank(vectors: ArrayLike) -> float:
    """RankMe: exp of the entropy of the singular values over their sum (Garrido et al., ICML 2023, equation 1)."""
    values = np.linalg.svd(as_matrix(vectors).astype(np.float64), compute_uv=False)
    total = values.sum()
    if total <= 0:
        return 0.0
    p = values[values > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))


def participation_ratio(vectors: ArrayLike) -> float:
    """tr(C)^2 / tr(C^2) of the covariance C: how many directions share the variance."""
    x = as_matrix(vectors).astype(np.float64)
    covariance = np.cov(x, rowvar=False)
    squared = float(np.sum(covariance**2))
    return float(np.trace(covariance) ** 2 / squared) if squared > 0 else 0.0


def uniformity(vectors: ArrayLike) -> float:
    """log mean exp(-2 |x - y|^2) over different rows (Wang, Isola, ICML 2020, section 4.1.2); lower = wider."""
    x = as_matrix(vectors).astype(np.float64)
    if len(x) < 2:
        return float("nan")
    squares = np.sum(x**2, axis=1)
    distances = np.maximum(0.0, squares[:, None] + squares[None, :] - 2 * (x @ x.T))
    pairs = distances[np.triu_indices(len(x), k=1)]
    return float(np.log(np.mean(np.exp(-2 * pairs))))


def first_component_share(vectors: ArrayLike) -> float:
    """The share of the variance that lies along the first principal direction."""
    x = as_matrix(vectors).astype(np.float64)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    return float(values[0] / values.sum()) if values.sum() > 0 else 1.0


def neighbor_overlap(a: ArrayLike, b: ArrayLike, k: int = 10) -> float:
    """Mean share of the k nearest other rows that two embeddings (n, d) of the same texts have in common, in [0, 1]."""
    first, second = as_matrix(a), as_matrix(b)
    k = min(k, len(first) - 1)
    if k < 1:
        return float("nan")
    near_a, near_b = _nearest_others(first, k), _nearest_others(second, k)
    return float(np.mean([len(np.intersect1d(p, q)) / k for p, q in zip(near_a, near_b, strict=True)]))


def summary(vectors: ArrayLike) -> Mapping[str, float]:
    """Every gauge of at most MAX_ROWS rows, by name; `max_norm_error` is the largest | |x| - 1 |."""
    x = as_matrix(vectors)
    if len(x) > MAX_ROWS:
        x = x[np.linspace(0, len(x) - 1, MAX_ROWS).astype(np.int64)]
    return {
        "rows": float(len(x)),
        "mean_random_pair_cosine": mean_random_pair_cosine(x),
        "effective_rank": effective_rank(x),
        "participation_ratio": participation_ratio(x),
        "uniformity": uniformity(x),
        "first_component_share": first_component_share(x),
        "max_norm_error": float(np.abs(np.linalg.norm(x, axis=1) - 1).max()),
    }


def _nearest_others(x: np.ndarray, k: int) -> np.ndarray:
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, k - 1, axis=1)[:, :k]
