"""What a candidate does to neighbourhoods: how many of the base's neighbours stay, and which nearest rows are new."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitoring.search import FlatIndex
from monitoring.significance import Interval, resample
from training.data import GateItems
from training.fit_measures import NEIGHBORS, some
from training.problem import Indices, Vectors

MAX_QUERIES: Final = 2_000
SHOWN: Final = 6
RESAMPLES: Final = 2_000


@dataclass(frozen=True, slots=True)
class Change:
    """A judged text whose nearest row became right, or ceased to be.

    query: Text number. before, after: Text numbers of its nearest row in the base and in the candidate; gain: how much
    the margin of right over wrong grew, in cosine.
    """

    query: int
    before: int
    after: int
    gain: float


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Neighbourhoods of judged texts among the rows they are compared with, base against candidate.

    Attributes:
        items: How many judged texts were looked at.
        k: Neighbours of each.
        overlap: Mean share of the base's k nearest that are the candidate's too.
        kept: (k + 1,) how many texts keep 0, 1, … k of their neighbours.
        right: Mean share of right rows among the k nearest, by model; for pairs the share of answers found there.
        mended, broken: Texts whose nearest row became right, and those where it ceased to be.
        examples: The mended and the broken with the largest change of margin, by these names.
    """

    items: int
    k: int
    overlap: Interval
    kept: tuple[int, ...]
    right: dict[str, float]
    mended: int
    broken: int
    examples: dict[str, list[Change]]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, without the examples."""
        return {
            "items": self.items,
            "k": self.k,
            "overlap": asdict(self.overlap),
            "kept": list(self.kept),
            "right": self.right,
            "mended": self.mended,
            "broken": self.broken,
        }


def neighbourhood_changes(items: GateItems, base: Vectors, candidate: Vectors) -> Neighbourhoods:
    """Compare the ten nearest index rows of at most MAX_QUERIES judged texts in both models.

    Args:
        items: What is judged.
        base, candidate: (n, d) float32 vectors of the dataset's distinct texts.
    """
    asked = some(len(items.queries), MAX_QUERIES)
    k = min(NEIGHBORS, len(items.index))
    right = _Right(items, asked)
    found = {}
    for name, vectors in (("base", base), ("candidate", candidate)):
        similarities, rows = FlatIndex(vectors[items.index]).search(vectors[items.queries[asked]], k)
        found[name] = (rows, right(rows), similarities)
    (old, old_right, _), (new, new_right, _) = found["base"], found["candidate"]
    same = np.array([len(np.intersect1d(a, b)) for a, b in zip(old, new, strict=True)])
    mended, broken = ~old_right[:, 0] & new_right[:, 0], old_right[:, 0] & ~new_right[:, 0]
    gains = _first_margin(new_right, found["candidate"][2]) - _first_margin(old_right, found["base"][2])

    def examples(mask: npt.NDArray[np.bool_]) -> list[Change]:
        places = np.flatnonzero(mask)
        order = places[np.argsort(-np.abs(gains[places]), kind="stable")][:SHOWN]
        return [
            Change(
                query=int(items.queries[asked[place]]),
                before=int(items.index[old[place, 0]]),
                after=int(items.index[new[place, 0]]),
                gain=float(gains[place]),
            )
            for place in order
        ]

    able = np.minimum(right.sizes, k)
    return Neighbourhoods(
        items=len(asked),
        k=k,
        overlap=resample(same / k, items.clusters[asked], n=RESAMPLES).interval(),
        kept=tuple(np.bincount(same, minlength=k + 1).tolist()),
        right={
            name: float(np.mean(correct.sum(axis=1)[able > 0] / able[able > 0])) if (able > 0).any() else 0.0
            for name, correct in (("base", old_right), ("candidate", new_right))
        },
        mended=int(mended.sum()),
        broken=int(broken.sum()),
        examples={"mended": examples(mended), "broken": examples(broken)},
    )


class _Right:
    """Which index places are right for each asked query; `sizes` counts them."""

    def __init__(self, items: GateItems, asked: Indices) -> None:
        self._sets = [items.relevant[place] for place in asked] if items.relevant else None
        if self._sets is not None:
            self.sizes = np.array([len(found) for found in self._sets])
            return
        names, codes = np.unique(
            np.array([*items.index_labels, *items.query_labels], dtype=object).astype(str), return_inverse=True
        )
        self._index, self._queries = codes[: len(items.index)], codes[len(items.index) :][asked]
        self.sizes = np.bincount(self._index, minlength=len(names))[self._queries]

    def __call__(self, rows: Indices) -> npt.NDArray[np.bool_]:
        """(m, k) bool of found rows (m, k)."""
        if self._sets is None:
            return np.asarray(self._index[rows] == self._queries[:, None])
        pairs = zip(self._sets, rows.tolist(), strict=True)
        return np.array([[row in wanted for row in found] for wanted, found in pairs])


def _first_margin(right: npt.NDArray[np.bool_], similarities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(m,) cosine of the first right neighbour less that of the first wrong one; the last one stands for a missing."""
    values = similarities.astype(np.float64)
    return _first(values, right) - _first(values, ~right)


def _first(values: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    places = np.where(mask.any(axis=1), mask.argmax(axis=1), values.shape[1] - 1)
    return np.asarray(values[np.arange(len(values)), places], dtype=np.float64)
