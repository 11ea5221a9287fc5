"""What a difference between two models on the same items can prove: bootstrap, Holm's procedure, alpha-spending."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import pi
from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.errors import VectorsRefused
from monitoring.quality import Scores

_CHUNK_BYTES: Final = 4_000_000
_FEW: Final = 32

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `items` values with its bootstrap interval, which rests on `clusters` independent draws."""

    mean: float
    low: float
    high: float
    items: int
    clusters: int
    confidence: float


@dataclass(frozen=True, eq=False)
class Resampled:
    """A number and what it came to in every bootstrap sample.

    Attributes:
        value: The number on the items themselves.
        draws: (n,) the number in each sample.
        items, clusters: How many items it is of, and how many independent draws these rest on.
    """

    value: float
    draws: Scores
    items: int
    clusters: int

    def interval(self, confidence: float = 0.95) -> Interval:
        """The two-sided percentile interval."""
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.draws, [tail, 1 - tail])
        return Interval(self.value, float(low), float(high), self.items, self.clusters, confidence)

    def p_above(self, threshold: float) -> float:
        """One-sided p-value of "it is at most the threshold": the share of samples that are.

        It is below a level exactly where the lower percentile bound at that level lies above the threshold. 0 means
        less than one in the number of samples.
        """
        return float(np.mean(self.draws <= threshold))

    def p_below(self, threshold: float) -> float:
        """One-sided p-value of "it is at least the threshold": the share of samples that are."""
        return float(np.mean(self.draws >= threshold))


def resample(values: ArrayLike, clusters: ArrayLike | None = None, *, seed: int = 0, n: int = 10_000) -> Resampled:
    """Bootstrap of the mean of per-item values (m,), such as differences between two models, seeded.

    With `clusters` (m,), one mark for each item (author, conversation, near-duplicate group), whole clusters are
    drawn: items of one source are not independent, and drawing them singly would make the interval too narrow. Few
    clusters make it too narrow all the same (one cluster gives no width at all), so a verdict asks how many there are.

    Raises:
        VectorsRefused: no items, lengths that differ, or values that are not finite.
    """
    items = np.asarray(values, dtype=np.float64)
    if items.ndim != 1 or not len(items) or not np.isfinite(items).all():
        raise VectorsRefused("differences must be a vector of finite numbers with at least one item")
    rng = np.random.default_rng(seed)
    if clusters is None:
        return Resampled(float(items.mean()), _resampled_means(rng, items, n), len(items), len(items))
    inverse = cluster_codes(clusters, len(items))
    sums = np.bincount(inverse, weights=items).astype(np.float64)
    draws = _resampled_ratios(rng, sums, np.bincount(inverse).astype(np.float64), n)
    return Resampled(float(items.mean()), draws, len(items), len(sums))


def resample_all(
    columns: Mapping[Name, ArrayLike], clusters: ArrayLike | None = None, *, seed: int = 0, n: int = 10_000
) -> dict[Name, Resampled]:
    """As `resample`, of several columns of values of the same items (m,), on the same draws for all of them.

    Raises:
        VectorsRefused: As `resample`, or columns of different lengths.
    """
    table = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    shapes = {values.shape for values in table.values()}
    if not table or shapes != {(len(next(iter(table.values()))),)} or not all(len(v) for v in table.values()):
        raise VectorsRefused("columns must be vectors of one length with at least one item")
    values = np.column_stack(list(table.values()))
    if not np.isfinite(values).all():
        raise VectorsRefused("values must be finite")
    codes = np.arange(len(values)) if clusters is None else cluster_codes(clusters, len(values))
    drawn = int(codes.max()) + 1
    # The last column counts items: a sample's mean is a drawn sum over a drawn number.
    sums = np.stack([np.bincount(codes, weights=c, minlength=drawn) for c in (*values.T, np.ones(len(values)))], axis=1)
    draws = np.concatenate([counts @ sums for counts in drawn_counts(drawn, seed=seed, n=n)])
    means = draws[:, :-1] / draws[:, -1:]
    return {
        name: Resampled(float(values[:, at].mean()), means[:, at], len(values), drawn) for at, name in enumerate(table)
    }


def drawn_counts(clusters: int, *, seed: int = 0, n: int = 10_000) -> Iterator[Scores]:
    """How often each cluster is in each of n bootstrap samples: blocks (some, clusters) float64, n rows in all."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_BYTES // (8 * clusters))
    for start in range(0, n, chunk):
        rows = min(chunk, n - start)
        picks = rng.integers(0, clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)


def paired_bootstrap(
    difference: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    n: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the mean of per-item differences (m,); everything as `resample` says."""
    return resample(difference, clusters, seed=seed, n=n).interval(confidence)


def rank_correlation_difference(
    candidate: ArrayLike, rival: ArrayLike, truth: ArrayLike, *, seed: int = 0, n: int = 2_000
) -> Resampled:
    """Spearman's correlation with the truth (m,) of the candidate's scores (m,), less that of the rival's.

    For judged similarities (STS): pairs of texts are drawn, and both correlations are taken on the same draw.

    Raises:
        VectorsRefused: Fewer than three items, lengths that differ, values that are not finite, or all alike.
    """
    from scipy.stats import rankdata

    columns = np.stack([np.asarray(values, dtype=np.float64) for values in (candidate, rival, truth)])
    if columns.ndim != 2 or columns.shape[1] < 3 or not np.isfinite(columns).all():
        raise VectorsRefused("a rank correlation needs three vectors of finite numbers with at least three items")
    if (columns == columns[:, :1]).all(axis=1).any():
        raise VectorsRefused("a rank correlation is not defined where all values are alike")

    def difference(rows: NDArray[np.int64]) -> float:
        ranks = rankdata(columns[:, rows], axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        lengths = np.maximum(np.sqrt((ranks**2).sum(axis=1)), 1e-12)
        first, second = ranks[:2] @ ranks[2] / (lengths[:2] * lengths[2])
        return float(first - second)

    rng = np.random.default_rng(seed)
    size = columns.shape[1]
    draws = np.array([difference(np.asarray(rng.integers(0, size, size), dtype=np.int64)) for _ in range(n)])
    return Resampled(difference(np.arange(size)), draws, size, size)


@dataclass(frozen=True, slots=True)
class Claim:
    """A one-sided test: its p-value, and the level at which it would be read if it were the only one."""

    p: float
    level: float


def holm(claims: Mapping[Name, Claim]) -> dict[Name, bool]:
    """Which claims hold, with the chance that any of them holds wrongly kept at the largest of their levels.

    Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979) on p / level: the smallest of m must be at
    most 1 / m, the next at most 1 / (m - 1), and so on; the first that is above ends it. With equal levels this is
    Holm's own; nothing is assumed about how the tests depend on each other.
    """
    order = sorted(claims, key=lambda name: claims[name].p / claims[name].level)
    held: dict[Name, bool] = {}
    holding = True
    for place, name in enumerate(order):
        holding = holding and claims[name].p / claims[name].level <= 1 / (len(order) - place)
        held[name] = holding
    return {name: held[name] for name in claims}


def spent_level(level: float, use: int) -> float:
    """The level of the use-th test (1, 2, …) on one gate set: level * 6 / (pi^2 use^2).

    Over any number of uses the levels add up to at most `level`, so by the union bound the chance of one wrong pass
    among them all stays below it. Halving at every use has the same sum, but the tenth use would be left with 1/1024
    of the whole, and here with 1/165. The bound takes each candidate as fitted without the gate set's items; that
    earlier verdicts are known is not accounted for, so a set used often should be renewed all the same.

    Raises:
        ValueError: `use` is below 1 or the level outside (0, 1).
    """
    if use < 1 or not 0 < level < 1:
        raise ValueError("uses are counted from 1, and a level lies in (0, 1)")
    return level * 6 / (pi * use) ** 2


def cluster_codes(clusters: ArrayLike, items: int) -> NDArray[np.int64]:
    """(m,) marks as numbers from 0.

    Raises:
        VectorsRefused: Not one mark for each item.
    """
    marks = np.asarray(clusters)
    if marks.shape != (items,):
        raise VectorsRefused("clusters must have one mark for each item")
    return np.unique(marks, return_inverse=True)[1].astype(np.int64)


def _resampled_means(rng: np.random.Generator, values: Scores, n: int) -> Scores:
    """n bootstrap means of items. A few distinct values are drawn by how often each comes: the same law."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _FEW:
        drawn = rng.multinomial(len(values), counts / len(values), size=n)
        return np.asarray(drawn @ distinct / len(values), dtype=np.float64)
    return _resampled_ratios(rng, values, None, n)


def _resampled_ratios(rng: np.random.Generator, sums: Scores, sizes: Scores | None, n: int) -> Scores:
    """n bootstrap means: drawn sums over drawn sizes (of clusters; None where every one is a single item)."""
    means = np.empty(n)
    chunk = max(1, _CHUNK_BYTES // (8 * len(sums)))
    for start in range(0, n, chunk):
        drawn = rng.integers(0, len(sums), size=(min(chunk, n - start), len(sums)), dtype=np.int32)
        total = len(sums) if sizes is None else sizes[drawn].sum(axis=1)
        means[start : start + chunk] = sums[drawn].sum(axis=1) / total
    return means
