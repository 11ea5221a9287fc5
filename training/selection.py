"""The score that decides when a fit stops and which weights it keeps: the served metric on the selection split."""

from collections.abc import Callable

import numpy as np

from monitoring.quality import Scores, knn_accuracy, ndcg_by_pairs
from training.problem import LabelledProblem, PairProblem, Problem, Vectors

Apply = Callable[[Vectors], Vectors]


class Selector:
    """Scores heads on the selection split of one problem, against an index of the fit split without doubted rows.

    Labels: the mean of 1-NN and 10-NN accuracy. Pairs: nDCG@10 of finding each anchor's positive among all positives.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def score(self, apply: Apply) -> float:
        """Score in [0, 1] of the head that `apply` computes: (n, d) base vectors to (n, d) adapted ones."""
        return float(self.items(apply).mean())

    def items(self, apply: Apply) -> Scores:
        """The score of each selection item, (m,) float64, always in the same order."""
        if isinstance(self._problem, LabelledProblem):
            return _labelled(self._problem, apply(self._problem.vectors))
        return _pairs(self._problem, apply(self._problem.vectors))


def _labelled(problem: LabelledProblem, vectors: Vectors) -> Scores:
    # Doubted rows are no neighbours to be judged by, unless there are no others.
    rows = np.flatnonzero(problem.sure) if problem.sure.any() else np.arange(len(problem.fit))
    index, queries = vectors[problem.fit[rows]], vectors[problem.select]
    index_labels = [str(code) for code in problem.fit_labels[rows]]
    query_labels = [str(code) for code in problem.select_labels]
    scores = [knn_accuracy(index, index_labels, queries, query_labels, k=k) for k in (1, 10)]
    return np.asarray(np.mean(scores, axis=0), dtype=np.float64)


def _pairs(problem: PairProblem, vectors: Vectors) -> Scores:
    corpus = np.unique(np.concatenate([problem.fit_positives, problem.select_positives]))
    anchors, inverse = np.unique(problem.select_anchors, return_inverse=True)
    places = np.searchsorted(corpus, problem.select_positives)
    relevant: list[set[int]] = [set() for _ in anchors]
    for anchor, place in zip(inverse, places, strict=True):
        relevant[int(anchor)].add(int(place))
    return np.asarray(ndcg_by_pairs(vectors[corpus], vectors[anchors], relevant), dtype=np.float64)
