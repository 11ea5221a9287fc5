"""How differently two versions see the same texts: each looks them up among the items it was fitted to itself.

Vectors of two versions are never compared with each other: a cosine between them means nothing. What can be compared
is what each finds: the rows of the dataset, their labels, how near they are and how usual the text is to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import IntArray, as_matrix
from monitoring.errors import VectorsRefused
from monitoring.reference import NEIGHBORS, Reference
from monitoring.search import FlatIndex
from monitoring.tally import Tally
from monitoring.window import P_VALUE_EDGES

MIN_COMMON = 100
"""Rows that two references must share for their neighbours to be compared by row."""
MAX_COMMON = 20_000
"""More common rows than these are sampled, as their vectors are copied."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows that both versions were fitted to: a code for each row found (n,), in an index of their own or not."""

    index: FlatIndex | None
    codes: IntArray


@dataclass(frozen=True, eq=False)
class _Side:
    """One version: its reference, and how the rows and labels that it finds are named."""

    reference: Reference
    rows: _Rows | None
    labels: IntArray | None

    def find(self, vectors: NDArray[np.float32]) -> "_Found":
        """What the version finds for its vectors (n, d)."""
        scores, near = self.reference.neighbors(vectors, NEIGHBORS)
        rows = self.rows
        if rows is None:
            codes = None
        else:
            codes = rows.codes[near if rows.index is None else rows.index.search(vectors, NEIGHBORS)[1]]
        return _Found(
            scores=scores[:, 0],
            rows=codes,
            labels=None if self.labels is None else self.labels[near],
            p_values=_edges(self.reference.novelty(vectors)),
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """Cosine with the nearest item (n,), codes of rows and labels (n, k), counts of p-values by edge."""

    scores: NDArray[np.float32]
    rows: IntArray | None
    labels: IntArray | None
    p_values: IntArray


class Comparer:
    """Compares a live version and a candidate by their references; safe for several threads.

    `rows`: whether neighbours are compared by row, which takes references of one revision of one dataset.
    `labels`: whether they are compared by label, which takes labels on both sides.
    """

    def __init__(self, live: Reference, candidate: Reference, *, seed: int = 0) -> None:
        rows = _common_rows(live, candidate, seed) or (None, None)
        labels = _common_labels(live, candidate) or (None, None)
        self._live, self._candidate = _Side(live, rows[0], labels[0]), _Side(candidate, rows[1], labels[1])
        self.rows = rows[0] is not None
        self.labels = labels[0] is not None

    def compare(self, live: ArrayLike, candidate: ArrayLike, sizes: Sequence[int]) -> Tally:
        """What to add for requests whose texts are vectors (n, d) of each version, `sizes` texts a request.

        A request counts once, with the mean of its texts: texts that arrive together are seldom independent.

        Raises:
            VectorsRefused: Vectors of another dimension or not finite, or sizes that do not add up.
        """
        dimensions = self._live.reference.dimension, self._candidate.reference.dimension
        old, new = as_matrix(live, dimensions[0]), as_matrix(candidate, dimensions[1])
        if not len(old) == len(new) == sum(sizes) or min(sizes, default=0) < 1:
            raise VectorsRefused("both versions must have one vector for each text, and each request a text")
        a, b = self._live.find(old), self._candidate.find(new)
        rows = labels = votes = None
        if a.rows is not None and b.rows is not None:
            rows = _means(1 - (a.rows[:, :, None] == b.rows[:, None, :]).any(axis=2).mean(axis=1), sizes)
        if a.labels is not None and b.labels is not None:
            k = min(a.labels.shape[1], b.labels.shape[1])
            labels = _means(_multiset_distance(a.labels[:, :k], b.labels[:, :k]), sizes)
            votes = _means((_votes(a.labels) != _votes(b.labels)).astype(np.float64), sizes)
        return Tally.of(rows, labels, votes, (a.scores, b.scores), (a.p_values, b.p_values))


def _common_rows(live: Reference, candidate: Reference, seed: int) -> tuple[_Rows, _Rows] | None:
    """Both sides over the rows they share; row numbers of different data mean different rows."""
    if not _same_data(live, candidate):
        return None
    places = {name: place for place, name in enumerate(live.fit_ids)}
    theirs = {name: place for place, name in enumerate(candidate.fit_ids)}
    shared = [name for name in candidate.fit_ids if name in places]
    if len(shared) < MIN_COMMON:
        return None
    if len(shared) == len(live.fit_ids) == len(candidate.fit_ids):
        codes = np.array([places[name] for name in candidate.fit_ids], dtype=np.int64)
        return _Rows(None, np.arange(len(shared))), _Rows(None, codes)
    if len(shared) > MAX_COMMON:
        chosen = np.random.default_rng(seed).choice(len(shared), MAX_COMMON, replace=False)
        shared = [shared[place] for place in np.sort(chosen)]
    codes = np.arange(len(shared))
    return (
        _Rows(FlatIndex(live.fit[[places[name] for name in shared]]), codes),
        _Rows(FlatIndex(candidate.fit[[theirs[name] for name in shared]]), codes),
    )


def _same_data(live: Reference, candidate: Reference) -> bool:
    one, other = live.version_info.get("dataset"), candidate.version_info.get("dataset")
    return isinstance(one, dict) and isinstance(other, dict) and bool(one) and one.get("digest") == other.get("digest")


def _common_labels(live: Reference, candidate: Reference) -> tuple[IntArray, IntArray] | None:
    """A code for the label of each fitted row, the same label the same code on both sides."""
    if live.fit_labels is None or candidate.fit_labels is None:
        return None
    names = {name: code for code, name in enumerate(sorted({*live.fit_labels, *candidate.fit_labels}))}
    one, other = (
        np.array([names[label] for label in labels], dtype=np.int64)
        for labels in (live.fit_labels, candidate.fit_labels)
    )
    return one, other


def _multiset_distance(a: IntArray, b: IntArray) -> NDArray[np.float64]:
    """1 - the share of k labels (n, k) that both lists hold, a label as often as it stands in both, (n,)."""
    # The j-th time that a label stands in its list, from 0: with it no two entries of a list are equal.
    shared = ((a[:, :, None] == b[:, None, :]) & (_repeats(a)[:, :, None] == _repeats(b)[:, None, :])).any(axis=2)
    return np.asarray(1 - shared.mean(axis=1), dtype=np.float64)


def _repeats(codes: IntArray) -> IntArray:
    same = codes[:, :, None] == codes[:, None, :]
    return np.asarray(np.tril(same, -1).sum(axis=2), dtype=np.int64)


def _votes(codes: IntArray) -> IntArray:
    """The commonest label of each row (n, k), nearest first; of equally common ones the one that comes first."""
    counts = (codes[:, :, None] == codes[:, None, :]).sum(axis=2)
    return np.asarray(np.take_along_axis(codes, counts.argmax(axis=1)[:, None], axis=1)[:, 0], dtype=np.int64)


def _means(values: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    """The mean of each request's values."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return np.asarray(np.add.reduceat(values, starts) / np.asarray(sizes), dtype=np.float64)


def _edges(p_values: NDArray[np.float64]) -> IntArray:
    places = np.searchsorted(P_VALUE_EDGES, p_values, side="left")
    return np.bincount(places, minlength=len(P_VALUE_EDGES)).astype(np.int64)
