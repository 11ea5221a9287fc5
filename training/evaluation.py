"""What is judged: scores of the items, their rows and groups, what fitted and judged rows share, generic sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.calibration import Scaled, scale
from monitoring.leakage import Leakage, find_leakage
from monitoring.predictions import Predictions, knn_predictions
from monitoring.quality import Scores, label_scores, nearest_rows, pair_scores
from monitoring.recipe import Recipe
from monitoring.retrieval import hits_by_label, hits_by_pairs, retrieval_scores
from monitoring.subgroups import length_groups
from registry.row import Row
from training.data import Corpus, GateItems, Parts
from training.problem import Indices, Vectors

QUARTERS = ("1 nearest quarter", "2 nearer quarter", "3 farther quarter", "4 farthest quarter")
"""Names of the groups by novelty."""
NO_GROUP = "(no group)"
CALIBRATION = "calibration"
"""Name of the score that the gate guards: how well the probabilities of the neighbours' vote fit (1 - Brier / 2)."""


@dataclass(frozen=True, eq=False)
class Vote:
    """Probabilities from the vote of the ten nearest fitted rows: as they are, and after temperature scaling."""

    predicted: Predictions
    scaled: Scaled


def item_scores(
    corpus: Corpus, parts: Parts, items: GateItems, vectors: Vectors
) -> tuple[dict[str, Scores], Vote | None]:
    """Scores (m,) by metric of one contender's vectors (n, d) of all texts, and the vote behind its calibration.

    Pairs have no probabilities, so no calibration (None).
    """
    index, queries = vectors[items.index], vectors[items.queries]
    if items.relevant:
        ranked = retrieval_scores(hits_by_pairs(index, queries, items.relevant))
        return ranked | pair_scores(index, queries, items.relevant), None
    ranked = retrieval_scores(hits_by_label(index, items.index_labels, queries, items.query_labels))
    scores = ranked | label_scores(index, items.index_labels, queries, items.query_labels)
    vote = _vote(corpus, parts, items, vectors)
    return scores | {CALIBRATION: vote.scaled.items}, vote


def _vote(corpus: Corpus, parts: Parts, items: GateItems, vectors: Vectors) -> Vote:
    """The vote's temperature is fitted on the selection rows and measured on the judged."""
    index, select = vectors[items.index], vectors[corpus.subject[parts.select]]
    judged = knn_predictions(index, items.index_labels, vectors[items.queries])
    held_out = knn_predictions(index, items.index_labels, select)
    return Vote(judged, scale(held_out, [corpus.labels[row] for row in parts.select], judged, items.query_labels))


def item_rows(corpus: Corpus, items: GateItems, parts: Parts) -> tuple[Indices, Indices]:
    """Row numbers, from 0, of the judged items (m,) and of the index (n,); a text of several rows has its first."""
    if not items.relevant:
        return parts.judged, parts.fit
    _, first = np.unique(corpus.subject[parts.judged], return_index=True)
    return parts.judged[first], np.unique(corpus.positive, return_index=True)[1].astype(np.int64)


def groups_of(
    corpus: Corpus, rows: Sequence[Row], parts: Parts, items: GateItems, base: Vectors
) -> dict[str, list[str]]:
    """Properties of the judged items whose groups must not be lost, one mark for each item.

    Labels and the rows' groups, where there are some; the text's length in characters, in quarters; and how far the
    text lies, in the base's vectors (n, d) of all texts, from the nearest text that was fitted on, in quarters.
    """
    found = {} if items.relevant else {"label": items.query_labels}
    at, _ = item_rows(corpus, items, parts)
    named = [rows[row].group for row in at]
    if any(name is not None for name in named):
        found["group"] = [NO_GROUP if name is None else name for name in named]
    found["length"] = length_groups([corpus.texts[number] for number in items.queries])
    nearest, _ = nearest_rows(base[corpus.subject[parts.fit]], base[items.queries], 1)
    edges = np.quantile(nearest[:, 0], (0.75, 0.5, 0.25))
    found["novelty"] = [QUARTERS[int((cosine < edges).sum())] for cosine in nearest[:, 0]]
    return found


def leakage_of(corpus: Corpus, parts: Parts, recipe: Recipe) -> Leakage:
    """What the fitted rows and the judged rows have in common: a text with its answer, and for labels whatever
    resembles another."""
    fitted = parts.seen(recipe.refit)
    rows = list(zip(corpus.subject.tolist(), corpus.positive.tolist(), strict=True))
    keys: dict[str, tuple[Sequence[int | tuple[int, int]], Sequence[int | tuple[int, int]]]] = {
        "text": ([rows[row] for row in fitted], [rows[row] for row in parts.judged])
    }
    if corpus.labels:
        marks = parts.clusters.tolist()
        keys["near-duplicate"] = ([marks[row] for row in fitted], [marks[row] for row in parts.judged])
    return find_leakage(keys)
