"""Three disjoint parts of a dataset: `fit` is fitted on, `select` chooses, `gate` judges.

Near-duplicates and rows of one `group` stay together, so that what judges was not fitted in other words, and a row
keeps its part when the dataset grows: a live version may be judged on the gate rows of a later revision.

Each cluster has a number u in [0, 1) that depends on the seed and its own content alone. u below the gate's share is
gate, u above 1 minus the selection's share is select, the rest is fit; shares that shrink as a dataset grows only hand
rows to the fit. A hash alone scatters: a label with 28 rows would have anything from 0 to 10 of them in the gate. So a
part is kept within a third of its share of each label, by giving or taking the clusters nearest to the border. That
moves a few rows: with Banking77 rows, 0 to 5 of 150 gate rows were fit rows of the revision before it grew, and at
most 10 of 850; with labels of 25 rows that grow by a third, 9 of 122. A retrain therefore also knows what the live
version was fitted on, and does not judge on it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.clusters import answers_of, clusters_of, draws
from registry.near import near_duplicate_groups
from registry.row import Row

__all__ = ["Shares", "Splits", "near_duplicate_groups", "shares_of", "split", "split_with"]

Shares = tuple[float, float, float]
"""Shares of fit, select and gate."""
# A part that is held out has 15 % of a small dataset, and about this many rows of a larger one: a thousand items settle
# differences of a point or two, and more would be taken from the fit. Never below 5 %.
ENOUGH_ROWS = 1000
# How far a part may be from its share of a label before clusters are moved.
SLACK = 1 / 3
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Splits:
    """Indices (int64, ascending) of the rows of each part, and the cluster of every row, (n,) int64 from 0.

    Rows with a doubted label that resemble a row held out are in no part.
    """

    fit: NDArray[np.int64]
    select: NDArray[np.int64]
    gate: NDArray[np.int64]
    clusters: NDArray[np.int64]

    def places(self, count: int) -> NDArray[np.int64]:
        """(count,) int64: 0, 1 or 2 for a row in fit, select or gate; -1 for one in no part."""
        places = np.full(count, -1, np.int64)
        places[self.fit] = 0
        places[self.select] = 1
        places[self.gate] = 2
        return places


def shares_of(rows: int) -> Shares:
    """The shares a dataset of so many rows is parted by: 70/15/15 up to 6,666 rows, 80/10/10 at 10,000."""
    held_out = min(0.15, max(0.05, ENOUGH_ROWS / max(1, rows)))
    return (1 - 2 * held_out, held_out, held_out)


def split(rows: Sequence[Row], *, seed: int = 0, shares: Shares | None = None) -> Splits:
    """Part rows by label, keeping near-duplicate clusters and `group`s whole.

    Pairs with few anchors to an answer are parted by answer, so that the gate asks for answers no fit has seen.
    A label with at least three clusters gets a row in each part; with two, in fit and gate; with one, in fit alone.
    Rows without a label are one stratum; `shares` left out follow from the number of rows. Rows whose label is doubted
    (`Row.weak`) do not count and are never held out: they are to fit, or in no part where they belong to a cluster that
    is held out. Raises ValueError for shares that are not positive or do not sum to 1.
    """
    return split_with(rows, near_duplicate_groups([row.subject for row in rows]), seed=seed, shares=shares)


def split_with(
    rows: Sequence[Row],
    near: NDArray[np.int64],
    *,
    seed: int = 0,
    shares: Shares | None = None,
) -> Splits:
    """As `split`, for near-duplicate groups (n,) int64 of the rows' texts that are already known."""
    sure = np.array([not row.weak for row in rows], np.bool_)
    shares = shares or shares_of(int(sure.sum()))
    if min(shares) <= 0 or abs(sum(shares) - 1) > _ROUNDING:
        raise ValueError("the three shares must be positive and sum to 1")
    answers = answers_of(rows)
    clusters = clusters_of(rows, near) if answers is None else clusters_of(rows, near, answers)
    numbers = draws(rows, clusters, by_answer=answers is not None, seed=seed)
    sizes = np.bincount(clusters[sure], minlength=len(numbers))
    counts: list[Counter[str]] = [Counter() for _ in numbers]
    for row, cluster in zip(rows, clusters.tolist(), strict=True):
        if not row.weak:
            counts[cluster][row.label or ""] += 1
    strata: defaultdict[str, list[int]] = defaultdict(list)
    for cluster, labels in enumerate(counts):
        # A cluster may hold several labels; it is dealt out with the most frequent one.
        if labels:
            strata[min(labels, key=lambda label: (-labels[label], label))].append(cluster)
    dealt = np.zeros(len(numbers), np.int64)
    for members in strata.values():
        dealt[members] = _deal(sizes[members], numbers[members], shares)
    places = np.where(sure | (dealt[clusters] == 0), dealt[clusters], -1)
    fit, select, gate = (np.flatnonzero(places == place).astype(np.int64) for place in range(3))
    return Splits(fit, select, gate, clusters)


def _deal(sizes: NDArray[np.int64], numbers: NDArray[np.float64], shares: Shares) -> NDArray[np.int64]:
    """The part of each cluster of one label: the gate takes from below, select from above, and fit has the rest."""
    places = np.zeros(len(sizes), np.int64)
    order = np.lexsort((sizes, numbers))
    # Without fit nothing is learnt, without gate nothing is judged; select comes third.
    spare = len(sizes) - (2 if len(sizes) > 2 else 1)
    gate = _take(order, sizes, numbers < shares[2], shares[2] * sizes.sum(), spare)
    places[gate] = 2
    left = order[::-1][places[order[::-1]] == 0]
    select = _take(left, sizes, numbers >= 1 - shares[1], shares[1] * sizes.sum(), len(left) - 1)
    places[select] = 1
    return places


def _take(
    order: NDArray[np.int64], sizes: NDArray[np.int64], drawn: NDArray[np.bool_], wanted: float, limit: int
) -> list[int]:
    """Clusters of a part, nearest to its end of [0, 1) first: those it drew, but about `wanted` rows of them.

    At least one cluster where `limit`, the most it may take, allows it. A cluster that is too big for the part is
    passed over, unless there is no other.
    """
    least = math.ceil((1 - SLACK) * wanted - _ROUNDING)
    most = math.ceil((1 + SLACK) * wanted - _ROUNDING)
    taken: list[int] = []
    rows = 0
    for cluster in order.tolist():
        if len(taken) >= limit:
            break
        if rows + sizes[cluster] <= most and (drawn[cluster] or rows < least):
            taken.append(cluster)
            rows += int(sizes[cluster])
    if not taken and limit > 0 and len(order):
        taken.append(min(order.tolist(), key=lambda cluster: int(sizes[cluster])))
    return taken
