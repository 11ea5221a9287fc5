"""Reference: a frozen, calibrated picture of the vectors a version was fitted to; all drift is measured against it.

Three disjoint parts. *fit*: rows the head was fitted on, the index of neighbours and the cells. *calibration*: rows
the head was not fitted on, for the law of every statistic without drift. *replay*: further such rows, to measure the
monitor on. Fitted rows sit closer together than new traffic does, so they must never calibrate anything. Held out is
not untouched: the rows of the selection split chose the step at which the fit stopped and the share of the residual
that is kept, which is a choice among a few dozen heads and not a fit to those rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring import reference_file
from monitoring.arrays import IntArray, as_matrix
from monitoring.cells import Cell, describe, fit_centroids, nearest
from monitoring.errors import VectorsRefused
from monitoring.features import DIRECTIONS, Fixed, RandomFeatures
from monitoring.search import FlatIndex
from monitoring.sizes import MIN_CALIBRATION as MIN_CALIBRATION
from monitoring.sizes import Sizes, sizes
from monitoring.statistics import choose_alpha0, novel_rank

NEIGHBORS: Final = 10
PER_CLUSTER: Final = 3
"""Rows of one cluster that may calibrate."""
MAX_FIT: Final = 100_000
MAX_CALIBRATION: Final = 20_000
MAX_REPLAY: Final = 10_000


@dataclass(frozen=True, slots=True)
class Scored:
    """What the reference says of n vectors: cells (n,), conformal ranks (n,), p-values (n,).

    features: (n, size) int16 random features in units of 1 / `features.UNIT`, zeros in rows they were not asked for;
    None where they were not asked for at all or the reference has none.
    """

    cells: IntArray
    ranks: IntArray
    p_values: NDArray[np.float64]
    features: Fixed | None = None

    def __len__(self) -> int:
        return len(self.cells)

    def part(self, start: int, stop: int) -> "Scored":
        """Rows start to stop."""
        return self.rows(slice(start, stop))

    def rows(self, chosen: IntArray | slice) -> "Scored":
        """The chosen rows."""
        features = None if self.features is None else self.features[chosen]
        return Scored(self.cells[chosen], self.ranks[chosen], self.p_values[chosen], features)

    @property
    def feature_sums(self) -> tuple[int, ...]:
        """The sum of the rows of `features`, (size,), or (): exact, so sums of parts add up to the whole's."""
        if self.features is None:
            return ()
        return tuple(int(s) for s in self.features.sum(axis=0, dtype=np.int64))


def split_held_out(n: int, seed: int = 0, clusters: ArrayLike | None = None) -> tuple[IntArray, IntArray]:
    """Indices of n held-out rows as (calibration, replay): two thirds, but at least 50, and the rest.

    With `clusters`, one mark for each row (near-duplicates, rows of one source), a cluster lies on one side, and
    calibration takes at most PER_CLUSTER of its rows: ranks are exact for rows that are exchangeable, and a hundred
    rows of one conversation are not a hundred. The rows thinned out are in neither part.
    """
    rng = np.random.default_rng(seed)
    marks = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    turn = rng.permutation(int(marks.max(initial=-1)) + 1)[marks]
    # Cluster after cluster in random order, and the rows of each in random order.
    order = np.lexsort((rng.permutation(n), turn))
    sizes = np.bincount(turn)
    starts = np.cumsum(sizes) - sizes
    kept = np.arange(n) - np.repeat(starts, sizes) < PER_CLUSTER
    wanted = max(MIN_CALIBRATION, round(2 * int(kept.sum()) / 3))
    before: IntArray = np.cumsum(kept) - kept
    inside = before[starts][turn[order]] < wanted
    return np.sort(order[inside & kept]).astype(np.int64), np.sort(order[~inside]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Reference:
    """An immutable reference; make one with `build`, store it with `to_bytes`.

    fit (n_fit, d), replay (n_replay, d), centroids (K, d): float32. calibration_scores (n_cal,): float64, ascending
    novelty scores. calibration_cells (K,): how many calibration items each cell holds. calibration (n_cal, d) float32:
    the calibration vectors in the order of their scores. features: random features and their law without drift, None
    where there are too few calibration items. References stored by older releases (format 1) have neither.
    """

    fit: NDArray[np.float32]
    fit_ids: tuple[str, ...]
    fit_labels: tuple[str, ...] | None
    replay: NDArray[np.float32]
    centroids: NDArray[np.float32]
    calibration_scores: NDArray[np.float64]
    calibration_cells: IntArray
    cells: tuple[Cell, ...]
    alpha0: float
    k: int
    seed: int
    version_info: Mapping[str, Any]
    calibration: NDArray[np.float32] | None = None
    features: RandomFeatures | None = None
    _index: FlatIndex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", FlatIndex(self.fit))
        arrays = (self.fit, self.replay, self.centroids, self.calibration_scores, self.calibration_cells)
        for array in arrays if self.calibration is None else (*arrays, self.calibration):
            array.setflags(write=False)

    @classmethod
    def build(
        cls,
        *,
        fit: ArrayLike,
        fit_ids: Sequence[str | int],
        fit_labels: Sequence[str] | None,
        calibration: ArrayLike,
        replay: ArrayLike,
        seed: int = 0,
        version_info: Mapping[str, Any] | None = None,
        directions: int = DIRECTIONS,
    ) -> "Reference":
        """Build a reference from unit vectors of one version: fit (n, d), calibration (m, d), replay (r, d).

        fit_ids name the fit rows (stored as strings, shown as neighbours and medoids); fit_labels may be None.
        Parts larger than MAX_FIT, MAX_CALIBRATION, MAX_REPLAY are sampled. Few calibration items make a reference
        that is not `calibrated`, which still answers neighbours and never alarms. directions: random directions of
        the features (twice as many numbers in a window), 0 for none.

        Raises:
            VectorsRefused: an empty fit part, lengths or dimensions that differ, or vectors that are not finite.
        """
        vectors = as_matrix(fit)
        if not len(vectors):
            raise VectorsRefused("a reference needs at least one fit vector")
        dimension = vectors.shape[1]
        if len(fit_ids) != len(vectors) or (fit_labels is not None and len(fit_labels) != len(vectors)):
            raise VectorsRefused("fit vectors, ids and labels must be of one length")
        unseen = as_matrix(_matrix_or_empty(calibration, dimension), dimension)
        kept = as_matrix(_matrix_or_empty(replay, dimension), dimension)
        rng = np.random.default_rng(seed)
        chosen = _sample(rng, len(vectors), MAX_FIT)
        vectors, ids = vectors[chosen], tuple(str(fit_ids[i]) for i in chosen)
        labels = None if fit_labels is None else tuple(str(fit_labels[i]) for i in chosen)
        unseen = unseen[_sample(rng, len(unseen), MAX_CALIBRATION)]
        kept = kept[_sample(rng, len(kept), MAX_REPLAY)]

        k = min(NEIGHBORS, len(vectors))
        scores = _novelty_scores(FlatIndex(vectors), unseen, k)
        order = np.argsort(scores, kind="stable")
        unseen = np.ascontiguousarray(unseen[order])
        centroids = fit_centroids(vectors, unseen, seed)
        counts = np.bincount(nearest(unseen, centroids), minlength=len(centroids)).astype(np.int64)
        shares = counts / max(1, counts.sum())
        return cls(
            fit=vectors,
            fit_ids=ids,
            fit_labels=labels,
            replay=kept,
            centroids=centroids,
            calibration_scores=scores[order],
            calibration_cells=counts,
            cells=describe(vectors, ids, labels, centroids, shares),
            alpha0=choose_alpha0(len(unseen)),
            k=k,
            seed=seed,
            version_info=dict(version_info or {}),
            calibration=unseen,
            features=RandomFeatures.build(vectors, unseen, seed, directions),
        )

    @property
    def dimension(self) -> int:
        return int(self.fit.shape[1])

    @property
    def n_cal(self) -> int:
        """Number of calibration items."""
        return len(self.calibration_scores)

    @property
    def novel_rank(self) -> int:
        """A vector is novel when its conformal rank is at most this."""
        return novel_rank(self.n_cal, self.alpha0)

    @property
    def pi(self) -> NDArray[np.float64]:
        """Expected share of each cell, (K,): the calibration items' shares."""
        return np.asarray(self.calibration_cells / max(1, self.n_cal), dtype=np.float64)

    @property
    def calibrated(self) -> bool:
        """Whether alarms may be raised against this reference."""
        return self.why_not is None

    @cached_property
    def why_not(self) -> str | None:
        """Why no alarm can be raised, in words; None when calibrated."""
        return self.sizes().why_not

    def sizes(self, arl: int = 1_000_000, window: int = 256) -> Sizes:
        """What this reference can do at a run length, and what its parts lack."""
        return sizes(
            fit=len(self.fit),
            calibration=self.n_cal,
            replay=len(self.replay),
            cells=len(self.cells),
            alpha0=self.alpha0,
            arl=arl,
            window=window,
        )

    def assign(self, vectors: ArrayLike) -> IntArray:
        """The cell of each vector, (n,) int64 in [0, K)."""
        return nearest(as_matrix(vectors, self.dimension), self.centroids)

    def score(self, vectors: ArrayLike, features: ArrayLike | None = None) -> Scored:
        """Cells, conformal ranks and p-values of unit vectors (n, d), and random features of some of them.

        The novelty score is the mean cosine distance to the k nearest fit items; the rank is
        1 + #{calibration scores >= score} and the p-value rank / (n_cal + 1).

        Args:
            features: Which vectors' random features to compute: a bool mask (n,) or row numbers; None for none.

        Raises:
            VectorsRefused: of another dimension, not finite, or a mask of another length.
        """
        matrix = as_matrix(vectors, self.dimension)
        scores = _novelty_scores(self._index, matrix, self.k)
        below = np.searchsorted(self.calibration_scores, scores, side="left")
        ranks = (1 + self.n_cal - below).astype(np.int64)
        found = self._features(matrix, features)
        return Scored(nearest(matrix, self.centroids), ranks, ranks / (self.n_cal + 1), found)

    def _features(self, matrix: NDArray[np.float32], chosen: ArrayLike | None) -> Fixed | None:
        if self.features is None or chosen is None:
            return None
        rows = np.asarray(chosen)
        if rows.dtype == np.bool_ and rows.shape != (len(matrix),):
            raise VectorsRefused(f"a mask over {len(matrix)} vectors has the shape ({len(matrix)},)")
        found = np.zeros((len(matrix), self.features.size), np.int16)
        if len(rows):
            picked = rows if rows.dtype == np.bool_ else rows.astype(np.int64)
            found[picked] = self.features.of(matrix[picked])
        return found

    def novelty(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Conformal p-value of each vector, (n,) float64 in (0, 1]: small = unlike what was fitted."""
        return self.score(vectors).p_values

    def neighbors(self, vectors: ArrayLike, k: int = NEIGHBORS) -> tuple[NDArray[np.float32], IntArray]:
        """The k nearest fit items: cosine scores (n, k) descending, and indices (n, k) into fit_ids and fit_labels.

        k is cut to the number of fit items.
        """
        matrix = as_matrix(vectors, self.dimension)
        k = max(1, min(k, len(self.fit)))
        return self._index.search(matrix, k)

    @cached_property
    def digest(self) -> str:
        """sha256 of the stored bytes, hex: the identity that windows and states are bound to."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """One safetensors file; equal references give equal bytes."""
        return reference_file.to_bytes({f.name: getattr(self, f.name) for f in fields(self) if f.init})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """Read stored bytes back, bit for bit.

        Raises:
            ReferenceRefused: not a reference, damaged, or of another format.
        """
        return cls(**reference_file.from_bytes(data))


def _novelty_scores(index: FlatIndex, vectors: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    similarities, _ = index.search(vectors, k)
    return np.asarray(1.0 - similarities.astype(np.float64).mean(axis=1))


def _sample(rng: np.random.Generator, n: int, limit: int) -> IntArray:
    if n <= limit:
        return np.arange(n)
    return np.sort(rng.choice(n, limit, replace=False)).astype(np.int64)


def _matrix_or_empty(vectors: ArrayLike, dimension: int) -> ArrayLike:
    array = np.asarray(vectors, dtype=np.float32)
    return array if array.size else np.zeros((0, dimension), np.float32)
