"""What a classifier names, label by label: precision, recall and F1, and their macro means with intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array

from monitoring.errors import VectorsRefused
from monitoring.quality import Scores
from monitoring.significance import Interval, Resampled, cluster_codes, drawn_counts

RESAMPLES: Final = 1_000
MACRO: Final = ("macro_precision", "macro_recall", "macro_f1")


@dataclass(frozen=True, slots=True)
class LabelScores:
    """One label: how many items carry it, and its precision, recall and F1; each 0 where it has no ground."""

    label: str
    items: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class ClassReport:
    """What a classifier named.

    Attributes:
        accuracy: Share of items named right.
        macro: By "macro_precision", "macro_recall" and "macro_f1": the plain mean over labels.
        labels: Every label that an item carries or is given, lowest F1 first.
    """

    accuracy: Interval
    macro: dict[str, Interval]
    labels: tuple[LabelScores, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        macro = {name: asdict(found) for name, found in self.macro.items()}
        return {"accuracy": asdict(self.accuracy), **macro, "labels": [asdict(label) for label in self.labels]}


def class_report(
    named: Sequence[str],
    truth: Sequence[str],
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    n: int = RESAMPLES,
    confidence: float = 0.95,
) -> ClassReport:
    """Compare what was named (m,) with the right labels (m,).

    Labels count as scikit-learn's `average="macro", zero_division=0` has them: those that occur among either; in a
    bootstrap sample, those that occur in it. Whole clusters are drawn.

    Raises:
        VectorsRefused: No items, or lengths that differ.
    """
    if not len(truth) or len(named) != len(truth):
        raise VectorsRefused("labels and what was named must be of one length, with at least one item")
    marks, codes = np.unique(np.array([*truth, *named], dtype=object).astype(str), return_inverse=True)
    right, said = codes[: len(truth)], codes[len(truth) :]
    of = np.arange(len(truth)) if clusters is None else cluster_codes(clusters, len(truth))
    shape = (int(of.max()) + 1, len(marks))
    ones = np.ones(len(truth))
    hit = right == said
    tables = [
        coo_array((ones[rows], (of[rows], column[rows])), shape=shape).tocsr()
        for column, rows in ((right, hit), (said, ones > 0), (right, ones > 0))
    ]
    whole = [np.asarray(table.sum(axis=0), dtype=np.float64)[None, :] for table in tables]
    blocks = [_means(*[counts @ table for table in tables]) for counts in drawn_counts(shape[0], seed=seed, n=n)]
    draws, values = np.concatenate(blocks), _means(*whole)[0]
    intervals = [
        Resampled(float(values[at]), draws[:, at], len(truth), shape[0]).interval(confidence) for at in range(4)
    ]
    precision, recall, f1 = (scores[0] for scores in _by_label(*whole))
    labels = [
        LabelScores(str(marks[at]), int(whole[2][0, at]), float(precision[at]), float(recall[at]), float(f1[at]))
        for at in np.lexsort((marks, f1))
    ]
    return ClassReport(intervals[0], dict(zip(MACRO, intervals[1:], strict=True)), tuple(labels))


def _by_label(hits: Scores, said: Scores, right: Scores) -> tuple[Scores, Scores, Scores]:
    """Precision, recall and F1, (n, labels) each, from counts of the same shape."""
    return (
        hits / np.maximum(said, 1.0),
        hits / np.maximum(right, 1.0),
        2 * hits / np.maximum(said + right, 1.0),
    )


def _means(hits: Scores, said: Scores, right: Scores) -> Scores:
    """(n, 4): accuracy and the three macro means of n samples."""
    there = (said + right) > 0
    labels = there.sum(axis=1)
    macro = [np.where(there, scores, 0.0).sum(axis=1) / labels for scores in _by_label(hits, said, right)]
    return np.stack([hits.sum(axis=1) / right.sum(axis=1), *macro], axis=1)
