"""What the gate is told of each contender: per-item scores on rows none was fitted on, calibration, groups, leakage."""

from typing import Any

from monitoring.calibration import Scaled, scale
from monitoring.leakage import Leakage, find_leakage
from monitoring.predictions import knn_predictions
from monitoring.quality import Scores, label_scores, pair_scores
from monitoring.recipe import Recipe
from monitoring.retrieval import hits_by_label, hits_by_pairs, retrieval_scores
from training.data import Corpus, GateItems, Parts
from training.problem import Vectors

CALIBRATION = "calibration"
"""Name of the score that the gate guards: how well the probabilities of the neighbours' vote fit (1 - Brier)."""


def item_scores(corpus: Corpus, parts: Parts, items: GateItems, vectors: Vectors) -> tuple[dict[str, Scores], Any]:
    """Scores (m,) by metric of one contender's vectors of all texts, and its calibration as plain JSON values.

    Pairs have no probabilities, so no calibration (None).
    """
    index, queries = vectors[items.index], vectors[items.queries]
    if items.relevant:
        ranked = retrieval_scores(hits_by_pairs(index, queries, items.relevant))
        return ranked | pair_scores(index, queries, items.relevant), None
    ranked = retrieval_scores(hits_by_label(index, items.index_labels, queries, items.query_labels))
    scores = ranked | label_scores(index, items.index_labels, queries, items.query_labels)
    scaled = _scaled(corpus, parts, items, vectors)
    return scores | {CALIBRATION: scaled.items}, scaled.to_json()


def _scaled(corpus: Corpus, parts: Parts, items: GateItems, vectors: Vectors) -> Scaled:
    """Probabilities of the vote of fitted neighbours, tempered on the selection rows and measured on the judged."""
    index, select = vectors[items.index], vectors[corpus.subject[parts.select]]
    return scale(
        knn_predictions(index, items.index_labels, select),
        [corpus.labels[row] for row in parts.select],
        knn_predictions(index, items.index_labels, vectors[items.queries]),
        items.query_labels,
    )


def leakage_of(corpus: Corpus, parts: Parts, recipe: Recipe) -> Leakage:
    """What the fitted rows and the judged rows have in common: a text with its answer, and for labels whatever
    resembles another."""
    fitted = parts.seen(recipe.refit)
    rows = list(zip(corpus.subject.tolist(), corpus.positive.tolist(), strict=True))
    keys: dict[str, tuple[list[Any], list[Any]]] = {
        "text": ([rows[row] for row in fitted], [rows[row] for row in parts.judged])
    }
    if corpus.labels:
        marks = parts.clusters.tolist()
        keys["near-duplicate"] = ([marks[row] for row in fitted], [marks[row] for row in parts.judged])
    return find_leakage(keys)


def groups_of(items: GateItems) -> dict[str, list[str]] | None:
    """Properties of the judged items whose groups must not be lost: labels, where there are some."""
    return None if items.relevant else {"label": items.query_labels}


def generic_parts(generic: Vectors, recipe: Recipe) -> tuple[Vectors, Vectors]:
    """Base vectors of generic sentences a collapse is judged on, and of those replayed in the fit: never the same."""
    return (generic[::2], generic[1::2]) if recipe.replay else (generic, generic[:0])
