"""How metrics are called on a page and in a card, and in which order they stand."""

from collections.abc import Iterable
from typing import Final

METRICS: Final = {
    "ndcg_at_10": "nDCG@10",
    "mrr_at_10": "MRR@10",
    "precision_at_10": "precision@10",
    "recall_at_1": "recall@1",
    "recall_at_5": "recall@5",
    "recall_at_10": "recall@10",
    "knn_accuracy": "k-NN accuracy",
    "nn_accuracy": "nearest-neighbour accuracy",
    "logistic_accuracy": "logistic regression accuracy",
    "few_shot_accuracy": "few-shot accuracy",
    "calibration": "calibration, 1 − Brier / 2",
    "robustness": "nDCG@10 of perturbed texts",
}


def named(metrics: Iterable[str]) -> dict[str, str]:
    """Metric -> what it is called: known ones first, in the order of METRICS, others by their own name."""
    found = set(metrics)
    ordered = [*(name for name in METRICS if name in found), *sorted(found - METRICS.keys())]
    return {name: METRICS.get(name, name.replace("_", " ")) for name in ordered}
