"""Where a model errs, for people to read: items with the worst margins, and labels that are taken for each other."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import IntArray, as_matrix
from monitoring.errors import VectorsRefused
from monitoring.quality import Scores

SHOWN: Final = 20
_CHUNK_VALUES: Final = 4_000_000


@dataclass(frozen=True, eq=False)
class Margins:
    """How far each query (m,) lies from being answered wrongly.

    Attributes:
        right, wrong: Cosine of the nearest right and of the nearest wrong index row; -1 where there is none.
        right_row, wrong_row: Those rows, of equal ones the first; -1 where there is none.
    """

    right: Scores
    wrong: Scores
    right_row: IntArray
    wrong_row: IntArray

    @property
    def values(self) -> Scores:
        """(m,) right less wrong: below 0 where the nearest row is a wrong one."""
        return self.right - self.wrong


@dataclass(frozen=True, slots=True)
class Example:
    """One query that is answered wrongly, or nearly so, by the ids the caller knows its rows by."""

    query: str
    margin: float
    right: str | None
    wrong: str | None
    right_cosine: float
    wrong_cosine: float
    label: str | None = None
    wrong_label: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Confusion:
    """A label that is taken for another: how often, and for which share of the label's items."""

    label: str
    taken_for: str
    items: int
    share: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return asdict(self)


def margins_by_label(
    index: ArrayLike, index_labels: Sequence[str], queries: ArrayLike, query_labels: Sequence[str]
) -> Margins:
    """Margins of labelled queries (m, d): right are index rows (n, d) with the query's label.

    Raises:
        VectorsRefused: Vectors and labels differ in number, or there are none.
    """
    marks = np.array([*index_labels, *query_labels], dtype=object).astype(str)
    codes = np.unique(marks, return_inverse=True)[1]
    ours, truth = codes[: len(index_labels)], codes[len(index_labels) :]
    if len(np.asarray(index)) != len(ours) or len(np.asarray(queries)) != len(truth):
        raise VectorsRefused("vectors and labels must be of one length")
    return _margins(index, queries, lambda rows: ours[None, :] == truth[rows, None])


def margins_by_pairs(index: ArrayLike, queries: ArrayLike, relevant: Sequence[Collection[int]]) -> Margins:
    """Margins of queries (m, d) where `relevant[i]` holds the index rows (n, d) that answer query i.

    Raises:
        VectorsRefused: Not one set of rows for each query, or there are none.
    """
    size = len(np.asarray(index))
    if len(np.asarray(queries)) != len(relevant):
        raise VectorsRefused("every query needs its set of relevant rows")

    def right(rows: IntArray) -> NDArray[np.bool_]:
        found = np.zeros((len(rows), size), dtype=np.bool_)
        for place, row in enumerate(rows):
            found[place, list(relevant[row])] = True
        return found

    return _margins(index, queries, right)


def worst_examples(
    margins: Margins,
    query_ids: Sequence[str],
    index_ids: Sequence[str],
    *,
    query_labels: Sequence[str] | None = None,
    index_labels: Sequence[str] | None = None,
    count: int = SHOWN,
) -> list[Example]:
    """The queries with the smallest margins, worst first, equal ones in their order."""
    if len(query_ids) != len(margins.values):
        raise VectorsRefused("every query needs its id")

    def named(names: Sequence[str] | None, row: int) -> str | None:
        return None if names is None or row < 0 else str(names[row])

    found = []
    for place in np.argsort(margins.values, kind="stable")[:count].tolist():
        right, wrong = int(margins.right_row[place]), int(margins.wrong_row[place])
        found.append(
            Example(
                query=str(query_ids[place]),
                margin=float(margins.values[place]),
                right=named(index_ids, right),
                wrong=named(index_ids, wrong),
                right_cosine=float(margins.right[place]),
                wrong_cosine=float(margins.wrong[place]),
                label=named(query_labels, place),
                wrong_label=named(index_labels, wrong),
            )
        )
    return found


def confused_labels(truth: Sequence[str], named: Sequence[str], *, count: int = SHOWN) -> list[Confusion]:
    """Which label is taken for which, the most frequent first; `named` (m,) is what a classifier said.

    Raises:
        VectorsRefused: Not one named label for each item.
    """
    if len(truth) != len(named):
        raise VectorsRefused("labels and what was named must be of one length")
    sizes = Counter(truth)
    wrong = Counter((label, said) for label, said in zip(truth, named, strict=True) if label != said)
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:count]
    return [Confusion(label, said, items, items / sizes[label]) for (label, said), items in ordered]


def _margins(index: ArrayLike, queries: ArrayLike, right: Callable[[IntArray], NDArray[np.bool_]]) -> Margins:
    rows = as_matrix(index)
    asked = as_matrix(queries, rows.shape[1])
    if not len(rows) or not len(asked):
        raise VectorsRefused("margins need at least one index row and one query")
    best: list[list[NDArray[Any]]] = [[], [], [], []]
    chunk = max(1, _CHUNK_VALUES // len(rows))
    for start in range(0, len(asked), chunk):
        places = np.arange(start, min(start + chunk, len(asked)))
        cosines = asked[places] @ rows.T
        wanted = right(places)
        for side, mask in enumerate((wanted, ~wanted)):
            masked = np.where(mask, cosines, -np.inf)
            nearest = masked.argmax(axis=1)
            there = mask.any(axis=1)
            best[side].append(np.where(there, masked[np.arange(len(places)), nearest], -1.0))
            best[side + 2].append(np.where(there, nearest, -1))
    near, far, near_row, far_row = (np.concatenate(parts) for parts in best)
    return Margins(near.astype(np.float64), far.astype(np.float64), near_row.astype(np.int64), far_row.astype(np.int64))
