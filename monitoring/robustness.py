"""What perturbed texts cost: a model's scores by kind and severity next to those of the texts as they are.

Encoding every item under every kind and severity would cost eighteen times the gate set. `designed` therefore deals
each item a few of them, so that every kind and severity is tried on about as many items, and every item on some.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monitoring.arrays import IntArray
from monitoring.errors import VectorsRefused
from monitoring.perturbations import KINDS, SEVERITIES, perturb
from monitoring.quality import Scores
from monitoring.significance import Interval, cluster_codes, resample

Key = tuple[str, int]
"""A kind of perturbation and its severity."""


@dataclass(frozen=True, eq=False)
class Design:
    """Which items are perturbed how.

    Attributes:
        places: By kind and severity: the items (some,), ascending.
        texts: The perturbed texts, in the order of `places`.
    """

    places: Mapping[Key, IntArray]
    texts: list[str]

    def parted(self, values: ArrayLike) -> dict[Key, Scores]:
        """Values of the texts (len(texts),) by kind and severity."""
        found = np.asarray(values, dtype=np.float64)
        cuts = np.cumsum([len(places) for places in self.places.values()])[:-1]
        return dict(zip(self.places, np.split(found, cuts), strict=True))

    def items(self) -> IntArray:
        """(len(texts),) the item of each text."""
        return np.concatenate(list(self.places.values()))


def designed(texts: Sequence[str], *, most: int, seed: int = 0) -> Design:
    """Deal every text as many kinds and severities as `most` perturbed texts allow, one at least, eighteen at most.

    Raises:
        VectorsRefused: No texts.
    """
    if not len(texts):
        raise VectorsRefused("there is nothing to perturb")
    keys = [(kind, severity) for severity in SEVERITIES for kind in KINDS]
    each = min(max(1, most // len(texts)), len(keys))
    order = np.random.default_rng(seed).permutation(len(texts))
    dealt = (np.arange(len(texts))[:, None] * each + np.arange(each)[None, :]) % len(keys)
    places = {
        key: np.sort(order[(dealt == number).any(axis=1)]).astype(np.int64)
        for number, key in sorted(enumerate(keys), key=lambda pair: pair[1])
    }
    places = {key: rows for key, rows in places.items() if len(rows)}
    changed = [
        text
        for (kind, severity), rows in places.items()
        for text in perturb([texts[row] for row in rows], kind, severity, seed=seed)
    ]
    return Design(places, changed)


@dataclass(frozen=True, slots=True)
class Perturbed:
    """One kind at one severity: the mean score, and by how much it lies below the clean one of the same items."""

    kind: str
    severity: int
    score: float
    drop: Interval
    relative_drop: float


@dataclass(frozen=True, eq=False)
class Robustness:
    """How a model's score holds under perturbation.

    Attributes:
        clean: Mean score of the texts as they are.
        rows: Every kind and severity, in the order of kind and severity.
        items: (m,) each item's mean score over the kinds it was perturbed by, each the mean over its severities; this
            is what the gate compares between models.
    """

    clean: float
    rows: tuple[Perturbed, ...]
    items: Scores

    @property
    def score(self) -> float:
        """Mean score over kinds and severities."""
        return float(self.items.mean())

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {"clean": self.clean, "score": self.score, "rows": [asdict(row) for row in self.rows]}


def robustness(
    clean: ArrayLike,
    perturbed: Mapping[Key, ArrayLike],
    clusters: ArrayLike | None = None,
    *,
    places: Mapping[Key, IntArray] | None = None,
    seed: int = 0,
    n: int = 2_000,
    confidence: float = 0.95,
) -> Robustness:
    """Compare per-item scores (m,) of clean texts with those of the same items under each (kind, severity).

    `places` says which items each (kind, severity) was tried on; None is all of them, in their order.

    Raises:
        VectorsRefused: An item was not perturbed, lengths differ, or a score is not finite.
    """
    plain = np.asarray(clean, dtype=np.float64)
    marks = np.arange(len(plain)) if clusters is None else cluster_codes(clusters, len(plain))
    scored = {key: np.asarray(values, dtype=np.float64) for key, values in sorted(perturbed.items())}
    tried = {key: np.arange(len(plain)) if places is None else places[key] for key in scored}
    if any(values.shape != tried[key].shape for key, values in scored.items()):
        raise VectorsRefused("robustness needs scores of every item, clean and under at least one perturbation")
    rows = []
    for (kind, severity), values in scored.items():
        at = tried[kind, severity]
        drop = resample(plain[at] - values, marks[at], seed=seed, n=n).interval(confidence)
        before = float(plain[at].mean())
        relative = drop.mean / before if before > 0 else 0.0
        rows.append(Perturbed(kind, severity, float(values.mean()), drop, relative))
    return Robustness(float(plain.mean()), tuple(rows), _item_means(len(plain), scored, tried))


def _item_means(items: int, scored: Mapping[Key, Scores], tried: Mapping[Key, IntArray]) -> Scores:
    """(items,) the mean over each item's kinds of its mean over their severities."""
    total, kinds = np.zeros(items), np.zeros(items)
    for kind in sorted({kind for kind, _ in scored}):
        sums, counts = np.zeros(items), np.zeros(items)
        for key in (key for key in scored if key[0] == kind):
            np.add.at(sums, tried[key], scored[key])
            np.add.at(counts, tried[key], 1.0)
        total += sums / np.maximum(counts, 1.0)
        kinds += counts > 0
    if not kinds.size or not kinds.all():
        raise VectorsRefused("robustness needs scores of every item, clean and under at least one perturbation")
    return total / kinds
