"""Multinomial logistic regression on vectors: the probe by which embeddings are compared, and MTEB's few-shot protocol.

The objective and the defaults are those of scikit-learn's LogisticRegression (C = 1, intercept not penalised, L-BFGS,
at most 100 iterations, gradient tolerance 1e-4), which MTEB uses on unscaled vectors.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import IntArray, as_matrix
from monitoring.errors import VectorsRefused
from monitoring.predictions import Predictions
from monitoring.quality import Scores

PER_LABEL: Final = 8
EXPERIMENTS: Final = 10
MAX_ITERATIONS: Final = 100
MTEB_SEED: Final = 42


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """A fitted classifier.

    Attributes:
        labels: Its labels, sorted.
        weights: (d, labels) float64.
        bias: (labels,) float64.
        iterations: Steps of L-BFGS.
        converged: False where the limit of iterations ended the fit.
    """

    labels: tuple[str, ...]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    iterations: int
    converged: bool

    def predict(self, vectors: ArrayLike) -> Predictions:
        """Probabilities of vectors (m, d)."""
        x = as_matrix(vectors, len(self.weights))
        return Predictions.of_logits(self.labels, x.astype(np.float64) @ self.weights + self.bias)


def fit_logistic(
    vectors: ArrayLike,
    labels: Sequence[str],
    *,
    c: float = 1.0,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = 1e-4,
) -> LogisticModel:
    """Minimise mean cross-entropy + |W|^2 / (2 c n) over W (d, labels) and a bias, from zero.

    The products are float32, as the vectors are. With two labels scikit-learn fits one vector of weights; the same
    boundary here is two opposite ones with half the c.

    Raises:
        VectorsRefused: Vectors and labels differ in number, or there are fewer than two labels.
    """
    from scipy.optimize import minimize

    x = as_matrix(vectors)
    if len(x) != len(labels):
        raise VectorsRefused("vectors and labels must be of one length")
    names, codes = np.unique(np.array(labels, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        raise VectorsRefused("a classifier needs at least two labels")
    penalty = (2.0 if len(names) == 2 else 1.0) / (c * len(x))
    target = np.zeros((len(x), len(names)), dtype=np.float32)
    target[np.arange(len(x)), codes] = 1.0
    size = x.shape[1] * len(names)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = flat[:size].reshape(x.shape[1], -1), flat[size:]
        logits = x @ weights.astype(np.float32) + bias.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[np.arange(len(x)), codes]
        np.exp(logits, out=logits)
        totals = logits.sum(axis=1, keepdims=True)
        value = float(np.mean(np.log(totals[:, 0], dtype=np.float64) - right)) + 0.5 * penalty * float(
            np.sum(weights**2)
        )
        logits /= totals
        logits -= target
        slopes = (x.T @ logits).astype(np.float64) / len(x) + penalty * weights
        return value, np.concatenate([slopes.ravel(), logits.sum(axis=0, dtype=np.float64) / len(x)])

    found = minimize(
        loss,
        np.zeros(size + len(names)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "gtol": tolerance, "ftol": 64 * np.finfo(np.float64).eps, "maxls": 50},
    )
    weights = np.asarray(found.x[:size], dtype=np.float64).reshape(x.shape[1], -1)
    return LogisticModel(
        tuple(names.tolist()), weights, np.asarray(found.x[size:]), int(found.nit), int(found.nit) < max_iterations
    )


def classifier_accuracy(
    index: ArrayLike, index_labels: Sequence[str], queries: ArrayLike, query_labels: Sequence[str]
) -> Scores:
    """1.0 where the classifier fitted on the index rows (n, d) names the query's label, else 0.0; (m,) float64."""
    return fit_logistic(index, index_labels).predict(queries).correct(query_labels)


@dataclass(frozen=True, eq=False)
class FewShot:
    """Accuracy under the few-shot protocol.

    Attributes:
        experiments: Accuracy of each experiment.
        items: (m,) the share of experiments that named the item's label; its mean is the accuracy.
        per_label: Examples of a label that each experiment was given at most.
    """

    experiments: tuple[float, ...]
    items: Scores
    per_label: int

    def to_json(self) -> dict[str, Any]:
        """Plain values: mean, standard deviation over experiments, each accuracy."""
        return {
            "accuracy": float(np.mean(self.experiments)),
            "sd": float(np.std(self.experiments)),
            "experiments": list(self.experiments),
            "per_label": self.per_label,
        }


def few_shot(
    index: ArrayLike,
    index_labels: Sequence[str],
    queries: ArrayLike,
    query_labels: Sequence[str],
    *,
    per_label: int = PER_LABEL,
    experiments: int = EXPERIMENTS,
    max_iterations: int = MAX_ITERATIONS,
    seed: int = MTEB_SEED,
) -> FewShot:
    """MTEB's classification protocol: the mean accuracy of classifiers fitted on a few examples a label.

    Every experiment shuffles the order of the index rows (n, d) once more and takes the first `per_label` rows of
    each label. MTEB gives 8 unless a task says otherwise; some tasks give 16.

    Raises:
        VectorsRefused: Vectors and labels differ in number, there are fewer than two labels, or nothing is asked.
    """
    x, asked = as_matrix(index), as_matrix(queries)
    if len(x) != len(index_labels) or len(asked) != len(query_labels):
        raise VectorsRefused("vectors and labels must be of one length")
    if min(per_label, experiments, len(asked)) < 1:
        raise VectorsRefused("the few-shot protocol needs an example, an experiment and a query at least")
    order = np.arange(len(x))
    hits = []
    for _ in range(experiments):
        order = _shuffled(order, seed)
        rows = _first_of_each(order, index_labels, per_label)
        model = fit_logistic(x[rows], [index_labels[row] for row in rows], max_iterations=max_iterations)
        hits.append(model.predict(asked).correct(query_labels))
    items = np.asarray(np.mean(hits, axis=0), dtype=np.float64)
    return FewShot(tuple(float(hit.mean()) for hit in hits), items, per_label)


def _shuffled(order: IntArray, seed: int) -> IntArray:
    """The order after one more shuffle. MTEB seeds each experiment alike and shuffles what the one before left."""
    shuffled = order.copy()
    np.random.RandomState(seed).shuffle(shuffled)
    return shuffled


def _first_of_each(order: IntArray, labels: Sequence[str], count: int) -> list[int]:
    seen: Counter[str] = Counter()
    rows = []
    for row in order.tolist():
        if seen[labels[row]] < count:
            rows.append(row)
            seen[labels[row]] += 1
    return rows
