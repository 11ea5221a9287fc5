"""Reference: a frozen, calibrated picture of the vectors a version was fitted to; all drift is measured against it.

Three disjoint parts. *fit*: rows the head was fitted on, the index of neighbours and the cells. *calibration*: rows
the head was not fitted on, for exact null distributions. *replay*: further such rows, to measure the monitor on. Fitted
rows sit closer together than new traffic does, so they must never calibrate anything. Held out is not untouched: the
rows of the selection split chose the step at which the fit stopped and the share of the residual that is kept, which
is a choice among a few dozen heads and not a fit to those rows.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from monitoring.arrays import IntArray, as_matrix
from monitoring.cells import Cell, describe, fit_centroids, nearest
from monitoring.errors import ReferenceRefused, VectorsRefused
from monitoring.search import FlatIndex
from monitoring.statistics import choose_alpha0, novel_rank

FORMAT: Final = 1
NEIGHBORS: Final = 10
MIN_CALIBRATION: Final = 50
MIN_FIT: Final = 20
PER_CLUSTER: Final = 3
"""Rows of one cluster that may calibrate."""
MAX_FIT: Final = 50_000
MAX_CALIBRATION: Final = 20_000
MAX_REPLAY: Final = 10_000


@dataclass(frozen=True, slots=True)
class Scored:
    """What the reference says of n vectors: cells (n,), conformal ranks (n,), p-values (n,)."""

    cells: IntArray
    ranks: IntArray
    p_values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.cells)

    def part(self, start: int, stop: int) -> "Scored":
        return Scored(self.cells[start:stop], self.ranks[start:stop], self.p_values[start:stop])


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
    novelty scores. calibration_cells (K,): how many calibration items each cell holds.
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
    _index: FlatIndex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", FlatIndex(self.fit))
        for array in (self.fit, self.replay, self.centroids, self.calibration_scores, self.calibration_cells):
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
    ) -> "Reference":
        """Build a reference from unit vectors of one version: fit (n, d), calibration (m, d), replay (r, d).

        fit_ids name the fit rows (stored as strings, shown as neighbours and medoids); fit_labels may be None.
        Parts larger than MAX_FIT, MAX_CALIBRATION, MAX_REPLAY are sampled. Few calibration items make a reference
        that is not `calibrated`, which still answers neighbours and never alarms.

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

        centroids = fit_centroids(vectors, unseen, seed)
        counts = np.bincount(nearest(unseen, centroids), minlength=len(centroids)).astype(np.int64)
        shares = counts / max(1, counts.sum())
        k = min(NEIGHBORS, len(vectors))
        return cls(
            fit=vectors,
            fit_ids=ids,
            fit_labels=labels,
            replay=kept,
            centroids=centroids,
            calibration_scores=np.sort(_novelty_scores(FlatIndex(vectors), unseen, k)),
            calibration_cells=counts,
            cells=describe(vectors, ids, labels, centroids, shares),
            alpha0=choose_alpha0(len(unseen)),
            k=k,
            seed=seed,
            version_info=dict(version_info or {}),
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

    @property
    def why_not(self) -> str | None:
        """Why no alarm can be raised, in words; None when calibrated."""
        if self.n_cal < MIN_CALIBRATION:
            return f"not calibrated: {self.n_cal} held-out calibration items, at least {MIN_CALIBRATION} are needed"
        if len(self.fit) < MIN_FIT:
            return f"not calibrated: {len(self.fit)} fitted items, at least {MIN_FIT} are needed"
        return None

    def assign(self, vectors: ArrayLike) -> IntArray:
        """The cell of each vector, (n,) int64 in [0, K)."""
        return nearest(as_matrix(vectors, self.dimension), self.centroids)

    def score(self, vectors: ArrayLike) -> Scored:
        """Cells, conformal ranks and p-values of unit vectors (n, d).

        The novelty score is the mean cosine distance to the k nearest fit items; the rank is
        1 + #{calibration scores >= score} and the p-value rank / (n_cal + 1).

        Raises:
            VectorsRefused: of another dimension, or not finite.
        """
        matrix = as_matrix(vectors, self.dimension)
        scores = _novelty_scores(self._index, matrix, self.k)
        below = np.searchsorted(self.calibration_scores, scores, side="left")
        ranks = (1 + self.n_cal - below).astype(np.int64)
        return Scored(nearest(matrix, self.centroids), ranks, ranks / (self.n_cal + 1))

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
        words = {
            "format": FORMAT,
            "fit_ids": self.fit_ids,
            "fit_labels": self.fit_labels,
            "alpha0": self.alpha0,
            "k": self.k,
            "seed": self.seed,
            "version_info": dict(self.version_info),
            "cells": [asdict(c) for c in self.cells],
        }
        text = json.dumps(words, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        return save(
            {
                "fit": self.fit, "replay": self.replay, "centroids": self.centroids,
                "calibration_scores": self.calibration_scores, "calibration_cells": self.calibration_cells,
                # As a tensor: safetensors does not keep the order of several metadata keys.
                "words": np.frombuffer(text, dtype=np.uint8),
            }
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """Read stored bytes back, bit for bit.

        Raises:
            ReferenceRefused: not a reference, damaged, or of another format.
        """
        try:
            tensors = {name: np.array(array) for name, array in load(data).items()}
            words = json.loads(tensors["words"].tobytes())
            if words["format"] != FORMAT:
                raise ReferenceRefused("a reference of another format")
            labels = words["fit_labels"]
            reference = cls(
                fit=_tensor(tensors, "fit", np.float32),
                fit_ids=tuple(words["fit_ids"]),
                fit_labels=None if labels is None else tuple(labels),
                replay=_tensor(tensors, "replay", np.float32),
                centroids=_tensor(tensors, "centroids", np.float32),
                calibration_scores=_tensor(tensors, "calibration_scores", np.float64),
                calibration_cells=_tensor(tensors, "calibration_cells", np.int64),
                cells=tuple(_cell(c) for c in words["cells"]),
                alpha0=float(words["alpha0"]),
                k=int(words["k"]),
                seed=int(words["seed"]),
                version_info=words["version_info"],
            )
        except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise ReferenceRefused(f"not a readable reference ({type(error).__name__})") from error
        reference._check()
        return reference

    def _check(self) -> None:
        cells, dimension = self.centroids.shape
        sound = (
            self.replay.shape[1:] == (dimension,)
            and self.fit.shape == (len(self.fit_ids), dimension)
            and self.calibration_cells.shape == (cells,) == (len(self.cells),)
            and int(self.calibration_cells.sum()) == self.n_cal
            and (self.fit_labels is None or len(self.fit_labels) == len(self.fit_ids))
            and all(np.isfinite(a).all() for a in (self.fit, self.replay, self.centroids, self.calibration_scores))
            and bool(np.all(np.diff(self.calibration_scores) >= 0))
        )
        if not sound:
            raise ReferenceRefused("the parts of this reference do not fit together")


def _tensor(tensors: Mapping[str, NDArray[Any]], name: str, kind: type[np.generic]) -> NDArray[Any]:
    tensor = tensors[name]
    if tensor.dtype != kind or tensor.ndim != (1 if name.startswith("calibration") else 2):
        raise ReferenceRefused(f"{name} has another type or shape")
    return tensor


def _cell(data: Mapping[str, Any]) -> Cell:
    labels = tuple((str(label), float(share)) for label, share in data["labels"])
    return Cell(int(data["index"]), data["label"], labels, tuple(data["medoids"]), float(data["share"]))


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
