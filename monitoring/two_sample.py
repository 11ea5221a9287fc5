"""Does a handful of kept vectors differ from the calibration items? Two independent tests, to confirm an alarm.

The window's own statistics look at fixed cells, distances and features. These two look at the vectors themselves: how
often the neighbours of a vector come from its own side, and how well a classifier tells the sides apart. Both p-values
come from permuted labels, so they are exact at any size.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri

from monitoring.arrays import IntArray, as_matrix
from monitoring.reference import Reference
from monitoring.search import FlatIndex

FEWEST: Final = 32
"""Vectors on each side below which nothing is confirmed or denied."""
MOST: Final = 1_024
"""Vectors of a side that are compared; more are sampled."""
NEIGHBORS: Final = 5
COMPONENTS: Final = 50
FOLDS: Final = 5
UNLIKE: Final = 10
_RIDGE: Final = 1e-2
_CHUNK: Final = 8_000_000


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What two tests say of n kept vectors beside m calibration items.

    knn_share: share of nearest neighbours that come from a vector's own side; knn_expected without drift; knn_p.
    auc: how well a classifier tells the sides apart on vectors it was not fitted on: 0.5 not at all, 1 wholly;
    auc_interval 95 %; auc_p. unlike: row numbers of the kept vectors that are most unlike the calibration items.
    """

    n: int
    m: int
    knn_share: float
    knn_expected: float
    knn_p: float
    auc: float
    auc_interval: tuple[float, float]
    auc_p: float
    unlike: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for the registry and the API."""
        return {**asdict(self), "auc_interval": list(self.auc_interval), "unlike": list(self.unlike)}


def confirm(reference: Reference, vectors: ArrayLike, *, seed: int = 0, permutations: int = 999) -> Confirmation | None:
    """Test kept unit vectors (n, d) against as many calibration items; at most MOST of each, sampled.

    The p-values are at least 1 / (permutations + 1). None where there are fewer than FEWEST on either side, as for
    references of format 1, which kept no calibration vectors.

    Raises:
        VectorsRefused: of another dimension, or not finite.
    """
    window = as_matrix(vectors, reference.dimension)
    known = reference.calibration
    if known is None or min(len(window), len(known)) < FEWEST:
        return None
    rng = np.random.default_rng((seed, 3))
    kept = np.sort(rng.choice(len(window), min(len(window), MOST), replace=False))
    # Twice as many of the known side cost little and steady both tests.
    picked = rng.choice(len(known), min(len(known), 2 * len(kept), MOST), replace=False)
    pooled = np.concatenate([window[kept], known[picked]])
    ours = np.arange(len(pooled)) < len(kept)
    permuted = rng.permuted(np.broadcast_to(ours, (permutations, len(ours))), axis=1)
    share, knn_p = knn_test(pooled, ours, permuted)
    scores = separate(_points(reference, pooled), np.vstack([ours, permuted]), rng)
    areas = np.array([area(s, side) for s, side in zip(scores, np.vstack([ours, permuted]), strict=True)])
    unlike = np.argsort(-scores[0][ours], kind="stable")[:UNLIKE]
    sizes = np.array([len(kept), len(picked)])
    return Confirmation(
        n=len(kept),
        m=len(picked),
        knn_share=share,
        knn_expected=float(np.sum(sizes * (sizes - 1)) / (sizes.sum() * (sizes.sum() - 1))),
        knn_p=knn_p,
        auc=float(areas[0]),
        auc_interval=area_interval(scores[0], ours),
        auc_p=float((1 + np.sum(areas[1:] >= areas[0])) / (permutations + 1)),
        unlike=tuple(int(kept[i]) for i in unlike),
    )


def knn_test(
    pooled: NDArray[np.float32], ours: NDArray[np.bool_], permuted: NDArray[np.bool_], k: int = NEIGHBORS
) -> tuple[float, float]:
    """(share of the k nearest neighbours on a vector's own side, p-value) of unit vectors (N, d), sides (N,).

    Schilling (JASA 81, 1986) and Henze (Annals of Statistics 16, 1988); the law without drift is that of the labels
    permuted (B, N) over the fixed graph of neighbours: p = (1 + #{B: share >= seen}) / (B + 1).
    """
    rows = FlatIndex(pooled).search(pooled, k + 1)[1]
    # A vector's first neighbour is itself, or a copy of it: then itself is among the others, or beyond them.
    itself = rows == np.arange(len(pooled))[:, None]
    itself[~itself.any(axis=1), k] = True
    near = rows[~itself].reshape(len(pooled), k)
    seen = float(_same_side(near, ours[None, :])[0])
    step = max(1, _CHUNK // near.size)
    found = np.concatenate([_same_side(near, permuted[at : at + step]) for at in range(0, len(permuted), step)])
    return seen, float((1 + np.sum(found >= seen)) / (len(permuted) + 1))


def _same_side(near: IntArray, sides: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of edges within a side, for each labelling (B, N): (B,)."""
    equal = np.zeros(len(sides), dtype=np.int64)
    for column in near.T:
        equal += (sides[:, column] == sides).sum(axis=1)
    return equal / near.size


def separate(points: NDArray[np.float64], sides: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    """Out-of-fold scores (B, N) of a linear discriminant on points (N, c) for each labelling (B, N); ours is higher.

    Least squares with a small ridge on the labels: Fisher's discriminant. Every labelling shares the same folds, so
    the labels are exchangeable over the scores, and one factorisation a fold serves all labellings.
    """
    fold = rng.permutation(len(points)) % FOLDS
    design = np.column_stack([points, np.ones(len(points))])
    targets = sides.T.astype(np.float64)
    scores = np.empty((len(points), len(sides)))
    for f in range(FOLDS):
        inside, outside = fold == f, fold != f
        x = design[outside]
        ridge = np.full(x.shape[1], _RIDGE * len(x))
        ridge[-1] = 0.0
        weights = np.linalg.solve(x.T @ x + np.diag(ridge), x.T @ targets[outside])
        # Against the fold's own level: folds hold different shares of each side.
        scores[inside] = design[inside] @ weights - targets[outside].mean(axis=0)
    return scores.T


def _points(reference: Reference, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the classifier sees of the pooled vectors, (N, c): how novel each is, and where it lies along the main
    directions of the fitted items; each column of about unit variance without drift.
    """
    rows = np.linspace(0, len(reference.fit) - 1, min(len(reference.fit), 4 * MOST)).astype(np.int64)
    fit = reference.fit[rows].astype(np.float64)
    values, axes = np.linalg.eigh(np.cov(fit, rowvar=False))
    used = [i for i in np.argsort(values)[::-1][:COMPONENTS] if values[i] > 1e-12]
    along = (pooled - fit.mean(axis=0)) @ axes[:, used] / np.sqrt(values[used])
    # -log of a uniform p-value has mean and variance 1.
    return np.column_stack([along, -np.log(reference.novelty(pooled)) - 1])


def area(scores: NDArray[np.float64], ours: NDArray[np.bool_]) -> float:
    """The area under the ROC curve of scores (N,) for the side `ours` (N,): P(ours above other) + half the ties."""
    mine, other = _placements(scores, ours)
    return float(mine.mean()) if len(mine) and len(other) else 0.5


def area_interval(
    scores: NDArray[np.float64], ours: NDArray[np.bool_], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of `area` after DeLong et al. (Biometrics 44, 1988), on the logit scale.

    At 0 or 1, where that has no width, the far end is 3 / (smaller side) away (the rule of three).
    """
    mine, other = _placements(scores, ours)
    value, smallest = float(mine.mean()), min(len(mine), len(other))
    error = float(np.sqrt(mine.var(ddof=1) / len(mine) + other.var(ddof=1) / len(other)))
    if value in (0.0, 1.0) or error == 0.0:
        return max(0.0, value - 3 / smallest), min(1.0, value + 3 / smallest)
    width = float(ndtri(0.5 + confidence / 2)) * error / (value * (1 - value))
    return float(expit(logit(value) - width)), float(expit(logit(value) + width))


def _placements(
    scores: NDArray[np.float64], ours: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each of ours the share of others below it, for each other the share of ours above it; ties count half."""
    mine, other = np.sort(scores[ours]), np.sort(scores[~ours])
    below = np.searchsorted(other, mine, "left") + np.searchsorted(other, mine, "right")
    above = 2 * len(mine) - np.searchsorted(mine, other, "left") - np.searchsorted(mine, other, "right")
    return below / (2 * max(1, len(other))), above / (2 * max(1, len(mine)))
