"""Quality by subgroup: which group of items a model serves worst, how wide the gap is, and what a candidate changes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from monitoring.errors import VectorsRefused
from monitoring.quality import Scores
from monitoring.significance import Claim, Interval, Resampled, cluster_codes, drawn_counts, holm

MIN_ITEMS: Final = 30
MIN_CLUSTERS: Final = 10
"""Independent sources that a group must have to be judged."""
RESAMPLES: Final = 2_000


@dataclass(frozen=True, slots=True)
class Group:
    """One group's mean score; `judged` is False where it has too few items to be compared with others."""

    name: str
    score: Interval
    judged: bool


@dataclass(frozen=True, eq=False)
class Subgroups:
    """Mean scores of the groups of one model.

    Attributes:
        groups: Every group, lowest mean first; judged are those with enough items and clusters.
        worst: The judged group with the lowest mean; None without a judged group.
        gap: The mean over all items less the worst group's mean. Its interval takes the worst group anew in every
            sample; with many small groups some group is low by chance, and the gap lies above 0 without any cause.
    """

    groups: tuple[Group, ...]
    worst: Group | None
    gap: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "groups": [asdict(group) for group in self.groups],
            "worst": None if self.worst is None else self.worst.name,
            "gap": None if self.gap is None else asdict(self.gap),
        }


def length_groups(texts: Sequence[str], *, parts: int = 4) -> list[str]:
    """The group of each text by its length in characters: at most `parts` groups of about equal size.

    Texts of one length are in one group. Names sort by length, such as "17 to 42 characters".
    """
    if not len(texts):
        return []
    lengths = np.array([len(text) for text in texts])
    edges = np.quantile(lengths, np.linspace(0, 1, parts + 1)[1:-1], method="lower")
    numbers = np.searchsorted(np.unique(edges), lengths, side="left")
    width = len(str(lengths.max()))
    names = {}
    for number in np.unique(numbers):
        inside = lengths[numbers == number]
        names[int(number)] = f"{inside.min():0{width}d} to {inside.max():0{width}d} characters"
    return [names[int(number)] for number in numbers]


def subgroups(
    scores: ArrayLike,
    marks: Sequence[str],
    clusters: ArrayLike | None = None,
    *,
    min_items: int = MIN_ITEMS,
    seed: int = 0,
    n: int = RESAMPLES,
    confidence: float = 0.95,
) -> Subgroups:
    """Mean score and interval of each group of items; `marks` (m,) name the group of each score (m,).

    Whole clusters are drawn, once for all groups, so that groups and gap rest on the same samples.

    Raises:
        VectorsRefused: No items, lengths that differ, or scores that are not finite.
    """
    names, table = _by_cluster(scores, marks, clusters)
    *means, overall = _resampled(table, seed, n)
    groups = [
        Group(name, found.interval(confidence), found.items >= min_items and found.clusters >= MIN_CLUSTERS)
        for name, found in zip(names, means, strict=True)
    ]
    judged = [place for place, group in enumerate(groups) if group.judged]
    worst = min((groups[place] for place in judged), key=lambda group: (group.score.mean, group.name), default=None)
    gap = None
    if worst is not None:
        draws = overall.draws - np.min([means[place].draws for place in judged], axis=0)
        found = Resampled(overall.value - worst.score.mean, draws, overall.items, overall.clusters)
        gap = found.interval(confidence)
    groups.sort(key=lambda group: (group.score.mean, group.name))
    return Subgroups(tuple(groups), worst, gap)


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """A group that a candidate serves worse than its rival by more than the margin, beyond doubt."""

    column: str
    name: str
    difference: Interval


def surely_lost(
    difference: ArrayLike,
    columns: Mapping[str, Sequence[str]],
    clusters: ArrayLike | None = None,
    *,
    margin: float,
    level: float = 0.05,
    min_items: int = MIN_ITEMS,
) -> tuple[list[GroupLoss], int]:
    """Groups whose loss is above the margin, and how many groups were tested.

    `difference` (m,) is candidate less rival; each of `columns` marks the items by one property. Every judged group of
    every column is tested against "it loses no more than the margin", with Holm over all of them: with no such loss,
    any group is named in at most a share `level` of cases. The test is Student's on cluster totals, not a bootstrap:
    Holm over many groups reads the far tail, which a percentile bootstrap of thirty yes-or-no items makes too thin.

    Raises:
        VectorsRefused: No items, lengths that differ, or values that are not finite.
    """
    from scipy.stats import t

    found: dict[tuple[str, str], GroupLoss] = {}
    claims: dict[tuple[str, str], Claim] = {}
    for column, marks in columns.items():
        names, table = _by_cluster(difference, marks, clusters)
        means, errors, drawn = _means_and_errors(table)
        items = table.sizes.sum(axis=0)
        for g, name in enumerate(names):
            if items[g] < min_items or drawn[g] < MIN_CLUSTERS:
                continue
            # Without any spread the loss is what it is: beyond doubt, or not there.
            certain = 0.0 if means[g] < -margin else 1.0
            p = float(t.cdf((means[g] + margin) / errors[g], drawn[g] - 1)) if errors[g] > 0 else certain
            reach = float(t.ppf(1 - level, drawn[g] - 1)) * errors[g]
            bounds = Interval(
                float(means[g]), float(means[g] - reach), float(means[g] + reach),
                int(items[g]), int(drawn[g]), 1 - 2 * level,
            )  # fmt: skip
            claims[column, name] = Claim(p, level)
            found[column, name] = GroupLoss(column, name, bounds)
    return [found[key] for key, lost in holm(claims).items() if lost], len(claims)


@dataclass(frozen=True, eq=False)
class _Table:
    """Sums and numbers of items, (clusters, groups) float64."""

    sums: Scores
    sizes: Scores


def _by_cluster(scores: ArrayLike, marks: Sequence[str], clusters: ArrayLike | None) -> tuple[list[str], _Table]:
    """Names of the groups, sorted, and what each cluster adds to each group."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or len(values) != len(marks) or not np.isfinite(values).all():
        raise VectorsRefused("subgroups need one finite score and one mark for each of at least one item")
    codes = np.arange(len(values)) if clusters is None else cluster_codes(clusters, len(values))
    names, groups = np.unique(np.array(marks, dtype=object).astype(str), return_inverse=True)
    shape = (int(codes.max()) + 1, len(names))
    sums, sizes = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (codes, groups), values)
    np.add.at(sizes, (codes, groups), 1.0)
    return names.tolist(), _Table(sums, sizes)


def _means_and_errors(table: _Table) -> tuple[Scores, Scores, Scores]:
    """Each group's mean, its standard error as a ratio of cluster totals, and its number of clusters."""
    items, drawn = table.sizes.sum(axis=0), (table.sizes > 0).sum(axis=0).astype(np.float64)
    means = table.sums.sum(axis=0) / items
    residuals = table.sums - means * table.sizes
    widen = drawn / np.maximum(drawn - 1, 1)
    return means, np.sqrt(widen * (residuals**2).sum(axis=0)) / items, drawn


def _resampled(table: _Table, seed: int, n: int) -> list[Resampled]:
    """Bootstrap of each group's mean and, last, of the mean of all items, from the same draws of clusters.

    A group without an item in a sample has there the mean it has on the items themselves.
    """
    sums = np.column_stack([table.sums, table.sums.sum(axis=1)])
    sizes = np.column_stack([table.sizes, table.sizes.sum(axis=1)])
    totals = sums.sum(axis=0) / sizes.sum(axis=0)
    blocks = []
    for counts in drawn_counts(len(sums), seed=seed, n=n):
        above, below = counts @ sums, counts @ sizes
        blocks.append(np.where(below > 0, above / np.maximum(below, 1.0), totals))
    draws = np.concatenate(blocks)
    items, clusters = sizes.sum(axis=0).astype(int), (sizes > 0).sum(axis=0).astype(int)
    return [Resampled(float(totals[g]), draws[:, g], int(items[g]), int(clusters[g])) for g in range(len(totals))]
