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

VERSIONS: Final = {
    "jaccard_at_10": "neighbours in common, Jaccard@10",
    "jaccard_at_50": "neighbours in common, Jaccard@50",
    "rbo": "rank-biased overlap, p = 0.9",
    "cka": "linear CKA, debiased",
    "procrustes_r2": "R² of the best rotation",
    "mixed_recall_at_10": "recall@10 in the old version's index",
    "rotated_recall_at_10": "recall@10 there, queries rotated",
}
"""Measures of what a new version moves, in the order in which they are told."""


def named(metrics: Iterable[str]) -> dict[str, str]:
    """Metric -> what it is called: known ones first, in the order of METRICS, others by their own name."""
    found = set(metrics)
    ordered = [*(name for name in METRICS if name in found), *sorted(found - METRICS.keys())]
    return {name: METRICS.get(name, name.replace("_", " ")) for name in ordered}
