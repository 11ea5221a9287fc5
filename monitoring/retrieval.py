"""Retrieval, item by item: what a ranking's first k places are worth, by MRR, recall, precision and nDCG.

Definitions are trec_eval's (`recip_rank`, `recall`, `P`, `ndcg_cut`) for relevance 0 or 1. A query without any
relevant row scores 0 in all of them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import IntArray
from monitoring.errors import VectorsRefused
from monitoring.quality import Scores, ndcg_of_hits, nearest_rows


@dataclass(frozen=True, eq=False)
class Hits:
    """Which places of each query's ranking hold a relevant row.

    Attributes:
        found: (m, k) bool, nearest first; equal similarities in the order of the corpus rows.
        relevant: (m,) how many rows of the corpus are relevant at all.
        depth: The k that was asked for; `found` is narrower where the corpus is smaller.
    """

    found: NDArray[np.bool_]
    relevant: IntArray
    depth: int


def hits_by_label(
    corpus: ArrayLike, corpus_labels: Sequence[str], queries: ArrayLike, query_labels: Sequence[str], *, k: int = 10
) -> Hits:
    """The k nearest corpus rows (n, d) of each query (m, d); relevant is what has the query's label.

    Raises:
        VectorsRefused: Vectors and labels differ in number, or there are none.
    """
    _, rows = nearest_rows(corpus, queries, k)
    if len(np.asarray(corpus)) != len(corpus_labels) or len(rows) != len(query_labels):
        raise VectorsRefused("vectors and labels must be of one length")
    names, codes = np.unique(np.array([*corpus_labels, *query_labels], dtype=object).astype(str), return_inverse=True)
    ours, truth = codes[: len(corpus_labels)], codes[len(corpus_labels) :]
    counts = np.bincount(ours, minlength=len(names))
    return Hits(ours[rows] == truth[:, None], counts[truth].astype(np.int64), k)


def hits_by_pairs(corpus: ArrayLike, queries: ArrayLike, relevant: Sequence[Collection[int]], *, k: int = 10) -> Hits:
    """The k nearest corpus rows (n, d) of each query (m, d); `relevant[i]` holds the rows that answer query i.

    Raises:
        VectorsRefused: A query has no set, or a set names a row that the corpus has not.
    """
    _, rows = nearest_rows(corpus, queries, k)
    if len(relevant) != len(rows):
        raise VectorsRefused("every query needs its set of relevant rows")
    size = len(np.asarray(corpus))
    wanted = [{int(row) for row in answers} for answers in relevant]
    if any(not 0 <= row < size for answers in wanted for row in answers):
        raise VectorsRefused(f"a relevant row lies outside the corpus of {size} rows")
    found = np.array([[int(row) in answers for row in near] for near, answers in zip(rows, wanted, strict=True)])
    return Hits(found, np.array([len(answers) for answers in wanted], dtype=np.int64), k)


def reciprocal_rank(hits: Hits, k: int = 10) -> Scores:
    """1 / the place of the first relevant row, 0 where none of the first k is; the mean is MRR@k."""
    found = _first(hits, k)
    places = np.argmax(found, axis=1) + 1.0
    return np.where(found.any(axis=1), 1.0 / places, 0.0)


def recall(hits: Hits, k: int = 10) -> Scores:
    """The share of all relevant rows that are among the first k."""
    return _shares(_first(hits, k).sum(axis=1), hits.relevant)


def precision(hits: Hits, k: int = 10) -> Scores:
    """The share of the first k places that hold a relevant row; places beyond a small corpus hold none."""
    return np.asarray(_first(hits, k).sum(axis=1) / k, dtype=np.float64)


def ndcg(hits: Hits, k: int = 10) -> Scores:
    """nDCG@k with gain 1 and discount log2(place + 1); the ideal has min(k, relevant) hits at the top."""
    return ndcg_of_hits(_first(hits, k), hits.relevant, k)


def retrieval_scores(hits: Hits, *, recalls: Sequence[int] = (1, 5, 10), k: int = 10) -> dict[str, Scores]:
    """Every metric by its usual name, such as `mrr_at_10`: one score (m,) float64 in [0, 1] for each query.

    Raises:
        VectorsRefused: A place beyond `hits.depth` is asked for.
    """
    return {
        f"mrr_at_{k}": reciprocal_rank(hits, k),
        f"ndcg_at_{k}": ndcg(hits, k),
        f"precision_at_{k}": precision(hits, k),
        **{f"recall_at_{depth}": recall(hits, depth) for depth in recalls},
    }


def _first(hits: Hits, k: int) -> NDArray[np.bool_]:
    if not 1 <= k <= hits.depth:
        raise VectorsRefused(f"the ranking holds {hits.depth} places, and {k} were asked for")
    return hits.found[:, :k]


def _shares(part: ArrayLike, whole: IntArray) -> Scores:
    shares: Scores = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
    return shares
