"""Three disjoint parts of a dataset: `fit` is fitted on, `select` chooses, `gate` judges.

Near-duplicates and rows of one `group` stay together, so that what judges was not fitted in other words; each label is
spread over the parts in the given shares. The same rows and seed always give the same parts.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from registry.near import near_duplicate_groups
from registry.row import Row

__all__ = ["Shares", "Splits", "near_duplicate_groups", "shares_of", "split", "split_with"]

Shares = tuple[float, float, float]
"""Shares of fit, select and gate."""
# A part that is held out has 15 % of a small dataset, and about this many rows of a larger one: a thousand items settle
# differences of a point or two, and more would be taken from the fit. Never below 5 %.
ENOUGH_ROWS = 1000
# Who gets a cluster first when a label has fewer clusters than there are parts: without fit nothing is learnt, without
# gate nothing is judged.
_FIRST = (0, 2, 1)


@dataclass(frozen=True, slots=True)
class Splits:
    """Indices (int64, ascending) of the rows of each part."""

    fit: NDArray[np.int64]
    select: NDArray[np.int64]
    gate: NDArray[np.int64]

    def places(self, count: int) -> NDArray[np.int64]:
        """(count,) int64: 0, 1 or 2 for a row in fit, select or gate."""
        places = np.zeros(count, np.int64)
        places[self.select] = 1
        places[self.gate] = 2
        return places


def shares_of(rows: int) -> Shares:
    """The shares a dataset of so many rows is parted by: 70/15/15 up to 6,666 rows, 80/10/10 at 10,000."""
    held_out = min(0.15, max(0.05, ENOUGH_ROWS / max(1, rows)))
    return (1 - 2 * held_out, held_out, held_out)


def split(rows: Sequence[Row], *, seed: int = 0, shares: Shares | None = None) -> Splits:
    """Part rows by label, keeping near-duplicate clusters and `group`s whole.

    A label with at least three clusters gets a row in each part; with two, in fit and gate; with one, in fit alone.
    Rows without a label are one stratum; `shares` left out follow from the number of rows. Raises ValueError for shares
    that are not positive or do not sum to 1.
    """
    return split_with(rows, near_duplicate_groups([row.subject for row in rows]), seed=seed, shares=shares)


def split_with(
    rows: Sequence[Row],
    near: NDArray[np.int64],
    *,
    seed: int = 0,
    shares: Shares | None = None,
) -> Splits:
    """As `split`, for near-duplicate groups (n,) int64 that are already known."""
    shares = shares or shares_of(len(rows))
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError("the three shares must be positive and sum to 1")
    places = np.zeros(len(rows), np.int64)
    strata: defaultdict[str, list[NDArray[np.int64]]] = defaultdict(list)
    for members in _clusters(rows, near):
        # A cluster may hold several labels; it is dealt out with the most frequent one.
        labels = Counter(rows[at].label or "" for at in members)
        strata[min(labels, key=lambda label: (-labels[label], label))].append(members)
    random = np.random.default_rng(seed)
    for label in sorted(strata):
        clusters = strata[label]
        dealt = [clusters[at] for at in random.permutation(len(clusters))]
        dealt.sort(key=len, reverse=True)
        for members, place in zip(dealt, _deal([len(members) for members in dealt], shares), strict=True):
            places[members] = place
    parts = [np.flatnonzero(places == place).astype(np.int64) for place in range(3)]
    return Splits(*parts)


def _deal(sizes: Sequence[int], shares: tuple[float, float, float]) -> list[int]:
    """The part of each cluster, sizes descending: always the part that lacks most, then no part left empty."""
    lacking = [share * sum(sizes) for share in shares]
    dealt = []
    for size in sizes:
        place = max(_FIRST, key=lambda part: lacking[part])
        lacking[place] -= size
        dealt.append(place)
    for place in _FIRST[: min(len(sizes), 3)]:
        if place not in dealt:
            # The smallest cluster of the part that has most clusters to spare.
            giver = max(_FIRST, key=dealt.count)
            dealt[len(dealt) - 1 - dealt[::-1].index(giver)] = place
    return dealt


def _clusters(rows: Sequence[Row], near: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows that must stay together, as index arrays: near-duplicates and equal `group`s, joined where they meet."""
    count = len(rows)
    # A graph of rows and of knots: each row hangs on its near-duplicate knot and, when it has one, on its group's knot.
    knots: dict[str, int] = {}
    grouped = [at for at, row in enumerate(rows) if row.group is not None]
    base = count + (int(near.max()) + 1 if count else 0)
    group_knots = [base + knots.setdefault(str(rows[at].group), len(knots)) for at in grouped]
    ends = np.concatenate([near + count, np.array(group_knots, np.int64)])
    starts = np.concatenate([np.arange(count), np.array(grouped, np.int64)])
    size = base + len(knots)
    graph = coo_array((np.ones(len(starts), np.int8), (starts, ends)), shape=(size, size))
    parts = connected_components(graph, directed=False)[1][:count]
    order = np.argsort(parts, kind="stable").astype(np.int64)
    cuts = np.flatnonzero(np.diff(parts[order])) + 1
    return [members for members in np.split(order, cuts) if len(members)]
