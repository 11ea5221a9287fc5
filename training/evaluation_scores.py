"""Everything measured of one contender on the judged items: scores of every item, and what stands behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from monitoring.classifier import PER_LABEL, FewShot, few_shot, fit_logistic
from monitoring.error_analysis import Margins, margins_by_label, margins_by_pairs
from monitoring.quality import Scores
from monitoring.retrieval import hits_by_label, hits_by_pairs, ndcg
from monitoring.robustness import Design, Robustness, robustness
from training.data import Corpus, GateItems, Parts
from training.evaluation import Vote, item_scores
from training.problem import Indices, Vectors

ROBUSTNESS: Final = "robustness"
"""Name of the score that the gate guards: nDCG@10 of the perturbed item."""
LOGISTIC_VALUES: Final = 800_000
"""Rows times labels that the logistic regression is fitted on at most: about a second, whatever the dataset."""
FEW_SHOT_VALUES: Final = 250_000
"""Rows times labels of all few-shot experiments together; MTEB's ten where labels are few."""
FEW_SHOT_MOST: Final = 10
EXAMINED: Final = 5_000
"""Items whose margins are looked at, at most."""


@dataclass(frozen=True, eq=False)
class LogisticFound:
    """The logistic regression on fitted rows: what it named (m,), on how many rows, and how the fit ended."""

    named: list[str]
    rows: int
    iterations: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Assessed:
    """What was measured of one contender.

    Attributes:
        scores: (m,) float64 by metric, in the order of the items.
        robustness: By kind and severity of perturbation.
        examined: Items whose margins were taken, and `margins` theirs.
        vote, logistic, few_shot: None for pairs; few_shot also with labels too many for it.
    """

    scores: dict[str, Scores]
    robustness: Robustness
    examined: Indices
    margins: Margins
    vote: Vote | None = None
    logistic: LogisticFound | None = None
    few_shot: FewShot | None = None


def assess(
    corpus: Corpus, parts: Parts, items: GateItems, texts: Vectors, design: Design, perturbed: Vectors, seed: int = 0
) -> Assessed:
    """Measure one contender by its vectors (n, d) of all texts and (p, d) of the design's perturbed texts."""
    index, queries = texts[items.index], texts[items.queries]
    examined = _examined(len(queries), seed)
    scores, vote = item_scores(corpus, parts, items, texts)
    held = _robustness(scores, index, perturbed, design, items)
    scores |= {ROBUSTNESS: held.items}
    if vote is None:
        margins = margins_by_pairs(index, queries[examined], [items.relevant[item] for item in examined])
        return Assessed(scores, held, examined, margins)

    labels, truth = items.index_labels, items.query_labels
    logistic = _logistic(index, labels, queries, seed)
    scores |= {"logistic_accuracy": _right(logistic.named, truth)}
    shots = _few_shot(index, labels, queries, truth)
    if shots is not None:
        scores |= {"few_shot_accuracy": shots.items}
    margins = margins_by_label(index, labels, queries[examined], [truth[item] for item in examined])
    return Assessed(scores, held, examined, margins, vote, logistic, shots)


def _examined(items: int, seed: int) -> Indices:
    if items <= EXAMINED:
        return np.arange(items)
    return np.sort(np.random.default_rng(seed).choice(items, EXAMINED, replace=False)).astype(np.int64)


def _robustness(
    clean: dict[str, Scores], index: Vectors, perturbed: Vectors, design: Design, items: GateItems
) -> Robustness:
    asked = design.items().tolist()
    hits = (
        hits_by_pairs(index, perturbed, [items.relevant[item] for item in asked])
        if items.relevant
        else hits_by_label(index, items.index_labels, perturbed, [items.query_labels[item] for item in asked])
    )
    changed = design.parted(ndcg(hits))
    return robustness(clean["ndcg_at_10"], changed, items.clusters, places=design.places, n=1_000)


def _logistic(index: Vectors, labels: Sequence[str], queries: Vectors, seed: int) -> LogisticFound:
    """A classifier on the fitted rows, or on a part of them drawn by seed where they are too many."""
    most = max(LOGISTIC_VALUES // len(set(labels)), 2 * len(set(labels)))
    rows = np.arange(len(labels))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    model = fit_logistic(index[rows], [labels[int(row)] for row in rows])
    return LogisticFound(model.predict(queries).named(), len(rows), model.iterations, model.converged)


def _few_shot(index: Vectors, labels: Sequence[str], queries: Vectors, truth: Sequence[str]) -> FewShot | None:
    """MTEB's protocol with as many of its ten experiments as labels allow; None where not even one is."""
    experiments = min(FEW_SHOT_MOST, FEW_SHOT_VALUES // (PER_LABEL * len(set(labels)) ** 2))
    return few_shot(index, labels, queries, truth, experiments=experiments) if experiments else None


def _right(named: Sequence[str], truth: Sequence[str]) -> Scores:
    return np.array([said == label for said, label in zip(named, truth, strict=True)], dtype=np.float64)
