"""Retrieval metrics against a plain reference, by hand, and with ties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring import quality, retrieval
from monitoring.errors import VectorsRefused


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def reference(order: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """The metrics of one query, written out."""
    top = order[:k]
    first = next((place for place, row in enumerate(top, 1) if row in relevant), None)
    gained = sum(1 / math.log2(place + 1) for place, row in enumerate(top, 1) if row in relevant)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(relevant)) + 1))
    found = len(set(top) & relevant)
    return {
        "mrr": 1 / first if first else 0.0,
        "recall": found / len(relevant) if relevant else 0.0,
        "precision": found / k,
        "ndcg": gained / ideal if ideal else 0.0,
    }


@settings(max_examples=80, deadline=None)
@given(data=st.data(), corpus=st.integers(1, 30), queries=st.integers(1, 6), k=st.integers(1, 12))
def test_pairs_are_the_plain_reference_with_ties_in_row_order(
    data: st.DataObject, corpus: int, queries: int, k: int
) -> None:
    # Few whole-numbered vectors: similarities are exact, and many are equal.
    numbers = st.integers(-2, 2)
    x = np.array(data.draw(st.lists(st.tuples(numbers, numbers), min_size=corpus, max_size=corpus)), dtype=np.float32)
    q = np.array(data.draw(st.lists(st.tuples(numbers, numbers), min_size=queries, max_size=queries)), dtype=np.float32)
    answers = [data.draw(st.sets(st.integers(0, corpus - 1), max_size=4)) for _ in range(queries)]
    hits = retrieval.hits_by_pairs(x, q, answers, k=k)
    for i, relevant in enumerate(answers):
        order = sorted(range(corpus), key=lambda row: (-float(q[i] @ x[row]), row))
        expected = reference(order, relevant, k)
        assert retrieval.reciprocal_rank(hits, k)[i] == pytest.approx(expected["mrr"])
        assert retrieval.recall(hits, k)[i] == pytest.approx(expected["recall"])
        assert retrieval.precision(hits, k)[i] == pytest.approx(expected["precision"])
        assert retrieval.ndcg(hits, k)[i] == pytest.approx(expected["ndcg"])


def test_labels_are_pairs_with_every_row_of_the_label() -> None:
    rng = np.random.default_rng(0)
    x, q = unit(rng.normal(size=(120, 8))), unit(rng.normal(size=(30, 8)))
    labels, truth = [f"l{i}" for i in rng.integers(0, 5, 120)], [f"l{i}" for i in rng.integers(0, 6, 30)]
    by_label = retrieval.hits_by_label(x, labels, q, truth)
    answers = [{row for row, label in enumerate(labels) if label == wanted} for wanted in truth]
    by_pairs = retrieval.hits_by_pairs(x, q, answers)
    assert np.array_equal(by_label.found, by_pairs.found)
    assert np.array_equal(by_label.relevant, by_pairs.relevant)
    scores = retrieval.retrieval_scores(by_label)
    assert set(scores) == {"mrr_at_10", "ndcg_at_10", "precision_at_10", "recall_at_1", "recall_at_5", "recall_at_10"}
    assert np.allclose(scores["ndcg_at_10"], quality.ndcg_by_label(x, labels, q, truth))
    assert all(((values >= 0) & (values <= 1)).all() and values.shape == (30,) for values in scores.values())
    # "l5" is in no row of the corpus.
    assert all(values[[i for i, wanted in enumerate(truth) if wanted == "l5"]].sum() == 0 for values in scores.values())


def test_rows_that_are_all_alike_come_in_their_order() -> None:
    corpus = np.tile(unit(np.array([[0.3, 0.4, 0.5]])), (700, 1))
    _, rows = quality.nearest_rows(corpus, corpus[:3], 10)
    assert rows.tolist() == [list(range(10))] * 3
    # A nearer row beyond the tied ones still comes first.
    corpus[650] = unit(np.array([0.3, 0.4, 0.6]))
    _, rows = quality.nearest_rows(corpus, corpus[650:651], 4)
    assert rows.tolist() == [[650, 0, 1, 2]]


def test_what_cannot_be_scored_is_refused() -> None:
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(VectorsRefused, match="outside the corpus"):
        retrieval.hits_by_pairs(x, x[:1], [{3}])
    with pytest.raises(VectorsRefused, match="set of relevant rows"):
        retrieval.hits_by_pairs(x, x, [{0}])
    with pytest.raises(VectorsRefused, match="one length"):
        retrieval.hits_by_label(x, ["a"], x, ["a"] * 3)
    with pytest.raises(VectorsRefused, match="20 were asked"):
        retrieval.recall(retrieval.hits_by_pairs(x, x, [{0}, {1}, {2}]), 20)
