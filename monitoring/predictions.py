"""What a classifier says of items: a probability for every label, from which accuracy and calibration are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import IntArray
from monitoring.errors import VectorsRefused
from monitoring.quality import K, Scores, nearest_rows


@dataclass(frozen=True, eq=False)
class Predictions:
    """Log-probabilities (m, labels) float64 of m items; a row's exponentials add up to 1.

    Attributes:
        labels: The labels, sorted.
        logs: (m, len(labels)) natural logarithms, finite.
    """

    labels: tuple[str, ...]
    logs: NDArray[np.float64]

    @classmethod
    def of_logits(cls, labels: Sequence[str], logits: ArrayLike) -> "Predictions":
        """Predictions whose probabilities are the softmax of logits (m, labels).

        Raises:
            VectorsRefused: The shape does not fit the labels, or a value is not finite.
        """
        values = np.asarray(logits, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(labels) or not len(labels) or not np.isfinite(values).all():
            raise VectorsRefused(f"logits must be finite and of shape (m, {len(labels)})")
        values = values - values.max(axis=1, keepdims=True)
        return cls(tuple(labels), values - np.log(np.exp(values).sum(axis=1, keepdims=True)))

    def tempered(self, temperature: float) -> "Predictions":
        """The same ranking with the logarithms divided by a temperature above 0; above 1 is less sure."""
        return Predictions.of_logits(self.labels, self.logs / temperature)

    def codes(self, truth: Sequence[str]) -> IntArray:
        """(m,) the place of each item's right label in `labels`; -1 for a label unknown to the classifier.

        Raises:
            VectorsRefused: Not one label for each item.
        """
        if len(truth) != len(self.logs):
            raise VectorsRefused("predictions and labels must be of one length")
        places = {label: place for place, label in enumerate(self.labels)}
        return np.array([places.get(str(label), -1) for label in truth], dtype=np.int64)

    def named(self) -> list[str]:
        """The likeliest label of each item; of equal ones the first."""
        return [self.labels[place] for place in self.logs.argmax(axis=1)]

    def correct(self, truth: Sequence[str]) -> Scores:
        """1.0 where the likeliest label is the right one, else 0.0."""
        return np.asarray(self.logs.argmax(axis=1) == self.codes(truth), dtype=np.float64)

    def confidence(self) -> Scores:
        """(m,) the probability of the likeliest label."""
        return np.asarray(np.exp(self.logs.max(axis=1)), dtype=np.float64)


def knn_predictions(index: ArrayLike, index_labels: Sequence[str], queries: ArrayLike, *, k: int = K) -> Predictions:
    """Probabilities from the vote of the k nearest index rows (n, d), each with its cosine, if above 0, as weight.

    One further vote, as heavy as the mean of the k, is spread evenly over all labels, so that no probability is 0.
    """
    if len(np.asarray(index)) != len(index_labels):
        raise VectorsRefused("vectors and labels must be of one length")
    similarities, rows = nearest_rows(index, queries, k)
    labels, codes = np.unique(np.array(index_labels, dtype=object).astype(str), return_inverse=True)
    weights = np.maximum(similarities, 0.0)
    votes = np.zeros((len(rows), len(labels)))
    np.add.at(votes, (np.arange(len(rows))[:, None], codes[rows]), weights)
    spread = np.maximum(weights.mean(axis=1, keepdims=True), 1e-9) / len(labels)
    return Predictions.of_logits(tuple(labels.tolist()), np.log(votes + spread))
