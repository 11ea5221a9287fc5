"""Margins, worst examples and confusions against plain ones."""

import json

import numpy as np
import pytest

from monitoring.error_analysis import confused_labels, margins_by_label, margins_by_pairs, worst_examples
from monitoring.errors import VectorsRefused
from monitoring.predictions import knn_predictions
from monitoring.quality import knn_accuracy


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


RNG = np.random.default_rng(0)
INDEX, QUERIES = unit(RNG.normal(size=(90, 8))), unit(RNG.normal(size=(40, 8)))
LABELS = [f"l{i}" for i in RNG.integers(0, 4, 90)]
TRUTH = [f"l{i}" for i in RNG.integers(0, 5, 40)]


def test_margins_are_the_plain_ones_and_their_sign_is_the_nearest_neighbour() -> None:
    found = margins_by_label(INDEX, LABELS, QUERIES, TRUTH)
    for i, wanted in enumerate(TRUTH):
        cosines = INDEX @ QUERIES[i]
        right = [(float(cosines[row]), row) for row, label in enumerate(LABELS) if label == wanted]
        wrong = [(float(cosines[row]), row) for row, label in enumerate(LABELS) if label != wanted]
        assert (found.right[i], found.right_row[i]) == pytest.approx(max(right, default=(-1.0, -1)))
        assert (found.wrong[i], found.wrong_row[i]) == pytest.approx(max(wrong))
    hits = knn_accuracy(INDEX, LABELS, QUERIES, TRUTH, k=1)
    assert ((found.values > 0) == (hits == 1)).all()
    answers = [{row for row, label in enumerate(LABELS) if label == wanted} for wanted in TRUTH]
    assert np.array_equal(margins_by_pairs(INDEX, QUERIES, answers).values, found.values)


def test_examples_are_the_smallest_margins_with_their_ids() -> None:
    margins = margins_by_label(INDEX, LABELS, QUERIES, TRUTH)
    query_ids, index_ids = [f"q{i}" for i in range(40)], [f"x{i}" for i in range(90)]
    found = worst_examples(margins, query_ids, index_ids, query_labels=TRUTH, index_labels=LABELS, count=7)
    assert [example.margin for example in found] == sorted(margins.values.tolist())[:7]
    for example in found:
        place = query_ids.index(example.query)
        assert example.label == TRUTH[place]
        assert example.wrong is not None
        assert example.wrong_label == LABELS[index_ids.index(example.wrong)] != example.label
        if example.label == "l4":
            assert example.right is None, "no index row has this label"
        assert json.loads(json.dumps(example.to_json(), allow_nan=False))["query"] == example.query


def test_confusions_are_counted() -> None:
    found = confused_labels(["a", "a", "a", "b", "b", "c"], ["a", "b", "b", "a", "b", "b"])
    assert [(c.label, c.taken_for, c.items) for c in found] == [("a", "b", 2), ("b", "a", 1), ("c", "b", 1)]
    assert [c.share for c in found] == pytest.approx([2 / 3, 1 / 2, 1.0])
    predicted = knn_predictions(INDEX, LABELS, QUERIES)
    every = confused_labels(TRUTH, predicted.named(), count=1000)
    assert sum(c.items for c in every) == int((predicted.correct(TRUTH) == 0).sum())
    assert len(confused_labels(TRUTH, predicted.named(), count=2)) == 2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(VectorsRefused, match="one length"):
        margins_by_label(INDEX, LABELS[1:], QUERIES, TRUTH)
    with pytest.raises(VectorsRefused, match="relevant rows"):
        margins_by_pairs(INDEX, QUERIES, [{0}])
    with pytest.raises(VectorsRefused, match="at least one"):
        margins_by_pairs(INDEX, QUERIES[:0], [])
    with pytest.raises(VectorsRefused, match="its id"):
        worst_examples(margins_by_label(INDEX, LABELS, QUERIES, TRUTH), ["one"], ["x"])
    with pytest.raises(VectorsRefused, match="one length"):
        confused_labels(["a"], [])
