"""What moved: the neighbourhoods that grew, shrank or appeared, named so that a person can act on it.

Known neighbourhoods are the reference's labels, told by a vote of the nearest fitted items, or its cells where it has
no labels: a cell often holds several labels and cuts through others. What appeared is found without either (see
`appeared`) and told by the known neighbourhood nearest to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from monitoring.appeared import Ball, appeared
from monitoring.arrays import IntArray, as_matrix
from monitoring.cells import MEDOIDS
from monitoring.reference import Reference
from monitoring.statistics import rate_interval

VOTERS: Final = 20
TEMPERATURE: Final = 0.1
"""A fitted item that is this much farther (in cosine) than the nearest one votes with 1/e of its weight."""
MIN_HELD_OUT: Final = 50
LEVEL: Final = 0.01
"""Chance that any neighbourhood is called significant when nothing has changed."""
SCANNED: Final = 2048
"""The newest vectors among which a neighbourhood may have appeared; the time that takes grows with their square."""
MAX_KNOWN: Final = 10_000
SHOWN: Final = 10
NEAREST: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One neighbourhood whose traffic changed.

    kind: "grew", "shrank" or "appeared". name: its label or its cell's; of one that appeared, the nearest known one's.
    cell: the cell that holds most of it. medoids: ids of its most typical fitted items. expected, observed: its share
    of the held-out items (of all known ones for one that appeared) and of the traffic, with the 95 % interval of the
    latter. z: standard errors between the two.
    novel: how many of its vectors are novel. nearest: known neighbourhoods closest to it, with the cosine of the
    centres. members: the rows, of the vectors that were explained, that belong to it. centre (d,), within: of one that
    appeared, its middle, and the cosine with it that its farthest member has.
    """

    kind: str
    name: str
    cell: int
    medoids: tuple[str, ...]
    expected: float
    observed: float
    interval: tuple[float, float]
    z: float
    significant: bool
    novel: int
    nearest: tuple[tuple[str, float], ...]
    members: tuple[int, ...]
    centre: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    within: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of what a person reads: no members, no vectors."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("members", "centre", "within")}
        return {**shown, "nearest": [{"name": name, "cosine": cosine} for name, cosine in self.nearest]}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The changes in n vectors, the most likely one to name first; `basis` says what known neighbourhoods are here."""

    n: int
    basis: str
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for the API."""
        return {"n": self.n, "basis": self.basis, "changes": [change.to_json() for change in self.changes]}


class Explainer:
    """Explains traffic against one reference; what it needs of the reference is worked out once, at the first use."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    @cached_property
    def held_out(self) -> NDArray[np.float32]:
        """Vectors (m, d) that stand for unchanged traffic: calibration and replay, none of them fitted."""
        parts = [part for part in (self.reference.calibration, self.reference.replay) if part is not None]
        return np.concatenate(parts)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The known neighbourhoods."""
        labels = self.reference.fit_labels
        if labels is not None:
            return tuple(sorted(set(labels)))
        return tuple(f"cell {cell.index}" for cell in self.reference.cells)

    def explain(self, vectors: ArrayLike) -> Explanation:
        """What changed in unit vectors (n, d) since the reference: the newest ones, or those since a change began.

        Without at least MIN_HELD_OUT held-out vectors (a reference that is not calibrated, or that an older release
        stored without a replay part) there is nothing to compare with and no change is named.

        Raises:
            VectorsRefused: of another dimension, or not finite.
        """
        given = as_matrix(vectors, self.reference.dimension)
        basis = "cells" if self.reference.fit_labels is None else "labels"
        if not len(given) or len(self.held_out) < MIN_HELD_OUT:
            return Explanation(len(given), basis, ())
        novel = self.reference.score(given).ranks <= self.reference.novel_rank
        older = max(0, len(given) - SCANNED)
        balls = [ball.shifted(older) for ball in appeared(given[older:], self._known)]
        in_ball = np.zeros(len(given), dtype=np.bool_)
        for ball in balls:
            in_ball[ball.members] = True
        changes = [self._appeared(ball, given, novel) for ball in balls]
        changes += self._moved(given, novel, in_ball)
        # What is certain before what is not; what came before what went, since whatever comes takes its share from all
        # others; then by the share of the traffic that moved at least.
        changes.sort(key=lambda c: (not c.significant, c.kind == "shrank", -_at_least(c), c.name))
        return Explanation(len(given), basis, tuple(changes[:SHOWN]))

    def belongs(self, vectors: ArrayLike, changes: Sequence[Change]) -> list[int | None]:
        """To which of some changes (by its place) each of other vectors (n, d) belongs; None for none of them."""
        matrix = as_matrix(vectors, self.reference.dimension)
        found = np.full(len(matrix), -1)
        assigned = self._assign(matrix)
        for place, change in enumerate(changes):
            if change.centre is None:
                found[(found < 0) & (assigned == self.names.index(change.name))] = place
        for place, change in enumerate(changes):  # what appeared takes precedence, as in `explain`
            if change.centre is not None:
                found[matrix @ change.centre >= change.within] = place
        return [int(place) if place >= 0 else None for place in found]

    def nearest(self, vectors: ArrayLike) -> list[tuple[tuple[str, float], ...]]:
        """The NEAREST known neighbourhoods of each vector (n, d), closest first, with the cosine to their centres."""
        matrix = as_matrix(vectors, self.reference.dimension)
        similarities = matrix @ self._centres.T
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :NEAREST]
        return [
            tuple((self.names[j], round(float(row[j]), 4)) for j in chosen)
            for row, chosen in zip(similarities, order, strict=True)
        ]

    def _appeared(self, ball: Ball, given: NDArray[np.float32], novel: NDArray[np.bool_]) -> Change:
        centre = given[ball.members].mean(axis=0, keepdims=True)
        centre /= np.linalg.norm(centre)
        nearest = self.nearest(centre)[0]
        known = self.names.index(nearest[0][0])
        cell = int(self.reference.assign(centre)[0])
        n = min(len(given), SCANNED)
        observed, expected = len(ball.members) / n, ball.known / len(self._known)
        z = _z([len(ball.members)], n, np.array([ball.known]), len(self._known))[0]
        return Change(
            "appeared", nearest[0][0], cell, self._medoids(known), expected, observed,
            rate_interval(len(ball.members), n), round(float(z), 3), True,
            int(novel[ball.members].sum()), nearest, tuple(int(i) for i in ball.members),
            centre[0], float((given[ball.members] @ centre[0]).min()),
        )  # fmt: skip

    def _moved(self, given: NDArray[np.float32], novel: NDArray[np.bool_], apart: NDArray[np.bool_]) -> list[Change]:
        """Known neighbourhoods by how their share changed; vectors `apart` are explained already."""
        assigned = self._assign(given)
        counts = np.bincount(assigned[~apart], minlength=len(self.names))
        expected = self._expected
        z = _z(counts, len(given), expected, self._m)
        limit = float(-ndtri(LEVEL / (2 * len(self.names))))
        found = []
        for j in np.flatnonzero(np.abs(z) >= 2.0):
            members = np.flatnonzero((assigned == j) & ~apart)
            where = members if len(members) else self._fitted(int(j))
            vectors = given[members] if len(members) else self.reference.fit[where]
            cell = int(np.bincount(self.reference.assign(vectors)).argmax())
            found.append(
                Change(
                    "grew" if z[j] > 0 else "shrank", self.names[j], cell, self._medoids(int(j)),
                    float(expected[j] / self._m), float(counts[j] / len(given)),
                    rate_interval(int(counts[j]), len(given)), round(float(z[j]), 3), bool(abs(z[j]) >= limit),
                    int(novel[members].sum()), (), tuple(int(i) for i in members),
                )
            )  # fmt: skip
        return found

    @cached_property
    def _known(self) -> NDArray[np.float32]:
        """All that is known, fitted and held out, or MAX_KNOWN of it: where none of it is, something appeared."""
        known = np.concatenate([self.reference.fit, self.held_out])
        if len(known) <= MAX_KNOWN:
            return known
        return known[np.random.default_rng(self.reference.seed).choice(len(known), MAX_KNOWN, replace=False)]

    @property
    def _m(self) -> int:
        return len(self.held_out)

    @cached_property
    def _codes(self) -> IntArray:
        """The neighbourhood of each fitted item, (n_fit,)."""
        labels = self.reference.fit_labels
        if labels is None:
            return self.reference.assign(self.reference.fit)
        return np.searchsorted(np.array(self.names), np.array(labels)).astype(np.int64)

    @cached_property
    def _expected(self) -> IntArray:
        """How many held-out vectors each neighbourhood has, (L,)."""
        return np.bincount(self._assign(self.held_out), minlength=len(self.names)).astype(np.int64)

    @cached_property
    def _centres(self) -> NDArray[np.float32]:
        """Unit centres (L, d) of the neighbourhoods' fitted items."""
        if self.reference.fit_labels is None:
            return self.reference.centroids
        sums = np.zeros((len(self.names), self.reference.dimension), np.float32)
        np.add.at(sums, self._codes, self.reference.fit)
        return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12), dtype=np.float32)

    def _fitted(self, neighbourhood: int) -> IntArray:
        return np.flatnonzero(self._codes == neighbourhood).astype(np.int64)

    def _medoids(self, neighbourhood: int) -> tuple[str, ...]:
        """Ids of the fitted items nearest to the neighbourhood's centre."""
        rows = self._fitted(neighbourhood)
        typical = rows[np.argsort(-(self.reference.fit[rows] @ self._centres[neighbourhood]), kind="stable")[:MEDOIDS]]
        return tuple(self.reference.fit_ids[int(i)] for i in typical)

    def _assign(self, vectors: NDArray[np.float32]) -> IntArray:
        """The neighbourhood of each vector (n,): its label by the vote of the nearest fitted items, or its cell."""
        if self.reference.fit_labels is None:
            return self.reference.assign(vectors)
        similarities, rows = self.reference.neighbors(vectors, VOTERS)
        return _elected(self._codes[rows], np.exp((similarities - similarities[:, :1]) / TEMPERATURE))


def _at_least(change: Change) -> float:
    """The share of the traffic that moved, less two of its standard errors."""
    moved = abs(change.observed - change.expected)
    return moved - 2 * moved / abs(change.z) if change.z else 0.0


def _elected(codes: IntArray, weights: NDArray[np.float32]) -> IntArray:
    """The code with the largest sum of weights in each row of (n, k), (n,); of equals the one of the nearer item."""
    alike = codes[:, :, None] == codes[:, None, :]
    totals = np.einsum("nij,nj->ni", alike, weights)
    return np.asarray(codes[np.arange(len(codes)), totals.argmax(axis=1)], dtype=np.int64)


def _z(counts: Sequence[int] | IntArray, n: int, expected: IntArray, m: int) -> NDArray[np.float64]:
    """Standard errors between counts of n and of m, each neighbourhood against all others, (L,)."""
    pooled = (np.asarray(counts) + expected) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    difference = np.asarray(counts) / n - expected / m
    scores: NDArray[np.float64] = np.divide(difference, error, out=np.zeros(len(expected)), where=error > 0)
    return scores
