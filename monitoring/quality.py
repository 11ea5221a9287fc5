"""Quality of an embedding, item by item, so that two models can be compared on the same items.

Every function returns one score for each query, float64 in [0, 1]; its mean is the metric.
"""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import IntArray, as_matrix
from monitoring.errors import VectorsRefused
from monitoring.search import FlatIndex

Scores = NDArray[np.float64]
K: Final = 10
METRICS: Final = ("ndcg_at_10", "knn_accuracy", "nn_accuracy")
"""What the gate can judge by; pairs have no knn_accuracy."""


def knn_accuracy(
    index: ArrayLike, index_labels: Sequence[str], queries: ArrayLike, query_labels: Sequence[str], *, k: int = K
) -> Scores:
    """1.0 where the k nearest index rows name the query's label, else 0.0.

    k = 1 is the nearest neighbour; more vote with their cosine as weight (negative cosines do not vote). A tie goes
    to the label of the nearer neighbour.
    """
    similarities, rows = _search(index, index_labels, queries, query_labels, k)
    codes, index_codes = _encode(index_labels, query_labels)
    truth = codes[len(index_codes) :]
    hits = np.zeros(len(truth))
    for i, (weights, near) in enumerate(zip(np.maximum(similarities, 0.0), index_codes[rows], strict=True)):
        names, first, inverse = np.unique(near, return_index=True, return_inverse=True)
        votes = np.bincount(inverse, weights=weights)
        best = np.lexsort((first, -votes))[0]
        hits[i] = float(names[best] == truth[i])
    return hits


def ndcg_by_label(
    corpus: ArrayLike, corpus_labels: Sequence[str], queries: ArrayLike, query_labels: Sequence[str], *, k: int = K
) -> Scores:
    """nDCG@k of retrieval where every corpus row with the query's label is relevant (gain 1, discount log2(rank + 1)).

    The ideal has min(k, relevant rows) hits at the top, as trec_eval's ndcg_cut does; a query whose label the corpus
    lacks scores 0.
    """
    _, rows = _search(corpus, corpus_labels, queries, query_labels, k)
    codes, corpus_codes = _encode(corpus_labels, query_labels)
    truth = codes[len(corpus_codes) :]
    relevant = np.bincount(corpus_codes, minlength=int(codes.max()) + 1)[truth]
    return ndcg_of_hits(corpus_codes[rows] == truth[:, None], relevant, k)


def ndcg_by_pairs(corpus: ArrayLike, queries: ArrayLike, relevant: Sequence[Collection[int]], *, k: int = K) -> Scores:
    """nDCG@k of retrieval where `relevant[i]` holds the corpus rows that answer query i (gain 1)."""
    found, hits = _pair_hits(corpus, queries, relevant, k)
    return ndcg_of_hits(hits, np.array([len(r) for r in found], dtype=np.int64), k)


def recall_by_pairs(
    corpus: ArrayLike, queries: ArrayLike, relevant: Sequence[Collection[int]], *, k: int = 1
) -> Scores:
    """The share of a query's relevant rows among the k nearest; for one relevant row and k = 1, whether it is first.

    With more than k relevant rows, k of them count as all (BEIR's capped recall); `retrieval.recall` does not cap.
    """
    found, hits = _pair_hits(corpus, queries, relevant, k)
    sizes = np.array([len(r) for r in found], dtype=np.float64)
    shares: Scores = np.divide(hits.sum(axis=1), np.minimum(sizes, k), out=np.zeros(len(sizes)), where=sizes > 0)
    return shares


def label_scores(
    index: ArrayLike, index_labels: Sequence[str], queries: ArrayLike, query_labels: Sequence[str]
) -> dict[str, Scores]:
    """The gate's metrics for labelled rows: `ndcg_at_10`, `knn_accuracy` (10-NN, weighted), `nn_accuracy` (1-NN)."""
    return {
        "ndcg_at_10": ndcg_by_label(index, index_labels, queries, query_labels),
        "knn_accuracy": knn_accuracy(index, index_labels, queries, query_labels),
        "nn_accuracy": knn_accuracy(index, index_labels, queries, query_labels, k=1),
    }


def pair_scores(corpus: ArrayLike, queries: ArrayLike, relevant: Sequence[Collection[int]]) -> dict[str, Scores]:
    """The gate's metrics for pairs: `ndcg_at_10` and `nn_accuracy` (the nearest row is a right one)."""
    return {
        "ndcg_at_10": ndcg_by_pairs(corpus, queries, relevant),
        "nn_accuracy": recall_by_pairs(corpus, queries, relevant, k=1),
    }


def _search(
    index: ArrayLike, index_labels: Sequence[str], queries: ArrayLike, query_labels: Sequence[str], k: int
) -> tuple[Scores, IntArray]:
    if len(np.asarray(index)) != len(index_labels) or len(np.asarray(queries)) != len(query_labels):
        raise VectorsRefused("vectors and labels must be of one length")
    return nearest_rows(index, queries, k)


def nearest_rows(index: ArrayLike, queries: ArrayLike, k: int) -> tuple[Scores, IntArray]:
    """Exact inner-product search: similarities (n, k) descending and rows (n, k); k is cut to the index's size.

    Equal similarities are in the order of their rows, also where the k-th and the next are equal.
    """
    rows = as_matrix(index)
    asked = as_matrix(queries, rows.shape[1])
    if not len(rows) or not len(asked):
        raise VectorsRefused("quality needs at least one index row and one query")
    k = min(k, len(rows))
    flat, wanted = FlatIndex(rows), min(k + 1, len(rows))
    similarities, near = _row_order(*flat.search(asked, wanted))
    open_ends = np.arange(len(asked))
    while wanted < len(rows):
        # Rows beyond the last one found may be equal to the k-th: look at twice as many, for those queries only.
        open_ends = open_ends[similarities[open_ends, k - 1] == similarities[open_ends, -1]]
        if not len(open_ends):
            break
        wanted = min(2 * wanted, len(rows))
        found, places = _row_order(*flat.search(asked[open_ends], wanted))
        similarities, near = similarities[:, : k + 1], near[:, : k + 1]
        similarities[open_ends, :k], near[open_ends, :k] = found[:, :k], places[:, :k]
        similarities[open_ends, k] = found[:, -1]
    return similarities[:, :k].astype(np.float64), near[:, :k]


def _row_order(similarities: NDArray[np.float32], rows: IntArray) -> tuple[NDArray[np.float32], IntArray]:
    order = np.lexsort((rows, -similarities), axis=1)
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _encode(index_labels: Sequence[str], query_labels: Sequence[str]) -> tuple[IntArray, IntArray]:
    _, codes = np.unique(np.array([*index_labels, *query_labels], dtype=object).astype(str), return_inverse=True)
    return codes.astype(np.int64), codes[: len(index_labels)].astype(np.int64)


def _pair_hits(
    corpus: ArrayLike, queries: ArrayLike, relevant: Sequence[Collection[int]], k: int
) -> tuple[list[set[int]], NDArray[np.bool_]]:
    _, rows = nearest_rows(corpus, queries, k)
    if len(relevant) != len(rows):
        raise VectorsRefused("every query needs its set of relevant rows")
    found = [set(r) for r in relevant]
    hits = np.array([[int(row) in wanted for row in near] for near, wanted in zip(rows, found, strict=True)])
    return found, hits


def ndcg_of_hits(hits: NDArray[np.bool_], relevant: IntArray, k: int) -> Scores:
    """nDCG@k (m,) of which places hold a relevant row (m, at most k), with `relevant` (m,) such rows to be found."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gained = (hits * discounts[: hits.shape[1]]).sum(axis=1)
    ideal = np.concatenate(([0.0], np.cumsum(discounts)))[np.minimum(relevant, k)]
    scores: Scores = np.divide(gained, ideal, out=np.zeros(len(gained)), where=ideal > 0)
    return scores
