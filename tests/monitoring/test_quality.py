"""Quality metrics against small cases worked by hand and scikit-learn, and the bootstrap's coverage."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score
from sklearn.neighbors import KNeighborsClassifier

from monitoring import quality, significance
from monitoring.errors import VectorsRefused


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def cloud() -> tuple[np.ndarray, list[str], np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 12))
    index, queries = rng.integers(0, 6, 300), rng.integers(0, 6, 80)
    x, q = (unit(centres[c] + 1.2 * rng.normal(size=(len(c), 12))) for c in (index, queries))
    return x, [f"l{c}" for c in index], q, [f"l{c}" for c in queries]


def test_nearest_neighbour_accuracy_is_sklearns(cloud: tuple[np.ndarray, list[str], np.ndarray, list[str]]) -> None:
    x, labels, q, truth = cloud
    expected = KNeighborsClassifier(1, metric="cosine").fit(x, labels).predict(q) == np.array(truth)
    assert quality.knn_accuracy(x, labels, q, truth, k=1).tolist() == expected.astype(float).tolist()


def test_weighted_votes_are_sklearns(cloud: tuple[np.ndarray, list[str], np.ndarray, list[str]]) -> None:
    x, labels, q, truth = cloud
    model = KNeighborsClassifier(10, metric="cosine", weights=lambda distance: np.maximum(1 - distance, 0))
    expected = model.fit(x, labels).predict(q) == np.array(truth)
    assert quality.knn_accuracy(x, labels, q, truth).mean() == pytest.approx(expected.mean(), abs=1 / len(q))


def test_a_tie_goes_to_the_nearer_neighbour() -> None:
    index = unit(np.array([[1.0, 0.1], [1.0, -0.1]]))
    query = unit(np.array([[1.0, 0.0]]))
    near = unit(np.array([[1.0, 0.001]]))
    assert quality.knn_accuracy(index, ["b", "a"], near, ["b"], k=2).tolist() == [1.0]
    assert len(quality.knn_accuracy(index, ["b", "a"], query, ["b"], k=2)) == 1


def test_ndcg_by_label_is_sklearns(cloud: tuple[np.ndarray, list[str], np.ndarray, list[str]]) -> None:
    x, labels, q, truth = cloud
    relevance = (np.array(truth)[:, None] == np.array(labels)[None, :]).astype(float)
    expected = ndcg_score(relevance, q @ x.T, k=10)
    assert quality.ndcg_by_label(x, labels, q, truth).mean() == pytest.approx(expected, abs=1e-6)


def test_ndcg_by_hand() -> None:
    corpus = unit(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
    query = unit(np.array([[1.0, 0.01]]))
    # The single right row is second: 1 / log2(3).
    assert quality.ndcg_by_pairs(corpus, query, [{1}]) == pytest.approx([1 / np.log2(3)])
    assert quality.ndcg_by_pairs(corpus, query, [{0, 2}]) == pytest.approx([(1 + 0.5) / (1 + 1 / np.log2(3))])
    assert quality.ndcg_by_pairs(corpus, query, [set()]).tolist() == [0.0]
    assert quality.recall_by_pairs(corpus, query, [{0, 2}], k=1).tolist() == [1.0]
    assert quality.recall_by_pairs(corpus, query, [{0, 2}], k=2).tolist() == [0.5]
    assert quality.ndcg_by_label(corpus, ["a", "b", "b"], query, ["unknown"]).tolist() == [0.0]


def test_the_named_metrics_have_one_score_an_item(cloud: tuple[np.ndarray, list[str], np.ndarray, list[str]]) -> None:
    x, labels, q, truth = cloud
    found = quality.label_scores(x, labels, q, truth)
    assert {name: len(scores) for name, scores in found.items()} == {
        "ndcg_at_10": 80,
        "knn_accuracy": 80,
        "nn_accuracy": 80,
    }
    assert set(quality.pair_scores(x, x[:5], [{i} for i in range(5)])) == {"ndcg_at_10", "nn_accuracy"}
    assert quality.pair_scores(x, x[:5], [{i} for i in range(5)])["nn_accuracy"].mean() == 1.0


def test_unequal_lengths_and_empty_sets_are_refused() -> None:
    x = unit(np.ones((3, 4)))
    with pytest.raises(VectorsRefused, match="one length"):
        quality.knn_accuracy(x, ["a"], x, ["a"] * 3)
    with pytest.raises(VectorsRefused, match="at least one"):
        quality.ndcg_by_pairs(x, x[:0], [])
    with pytest.raises(VectorsRefused, match="relevant rows"):
        quality.ndcg_by_pairs(x, x, [{0}])


@pytest.mark.parametrize("kind", ["accuracy", "ndcg"])
def test_the_interval_covers_as_often_as_it_says(kind: str) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(400):
        if kind == "accuracy":
            difference, truth = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.05, 0.85, 0.10]), 0.05
        else:
            difference, truth = rng.beta(2, 2, 130) - rng.beta(2, 2, 130) + 0.02, 0.02
        interval = significance.paired_bootstrap(difference, seed=seed, n=1000)
        covered += interval.low <= truth <= interval.high
    assert 0.91 <= covered / 400 <= 0.985


def test_clusters_widen_the_interval_to_honest_coverage() -> None:
    rng = np.random.default_rng(4)
    marks = np.repeat(np.arange(60), 5)
    alone = together = 0
    for seed in range(200):
        difference = np.repeat(rng.normal(size=60), 5) + 0.3 * rng.normal(size=300)
        first = significance.paired_bootstrap(difference, seed=seed, n=500)
        second = significance.paired_bootstrap(difference, marks, seed=seed, n=500)
        alone += first.low <= 0 <= first.high
        together += second.low <= 0 <= second.high
    assert together / 200 >= 0.89
    assert alone / 200 <= 0.75
