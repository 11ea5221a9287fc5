"""The classifier against scikit-learn's, and the few-shot protocol."""

from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from monitoring import classifier
from monitoring.errors import VectorsRefused
from monitoring.predictions import Predictions, knn_predictions
from monitoring.quality import knn_accuracy


def cloud(seed: int, n: int, labels: int, spread: float = 1.0) -> tuple[np.ndarray, list[str]]:
    centres = np.random.default_rng(99).normal(size=(labels, 16))
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, labels, n)
    x = centres[chosen] + spread * rng.normal(size=(n, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), [f"label {i}" for i in chosen]


@pytest.mark.parametrize(("labels", "c"), [(2, 1.0), (2, 30.0), (3, 0.2), (9, 1.0), (9, 30.0)])
def test_probabilities_are_sklearns(labels: int, c: float) -> None:
    x, y = cloud(1, 300, labels)
    q, truth = cloud(2, 200, labels)
    ours = classifier.fit_logistic(x, y, c=c, max_iterations=1000, tolerance=1e-6)
    theirs = LogisticRegression(C=c, max_iter=1000, tol=1e-6).fit(x.astype(np.float64), y)
    found = ours.predict(q)
    assert found.labels == tuple(theirs.classes_)
    assert np.abs(np.exp(found.logs) - theirs.predict_proba(q)).max() < 5e-3
    assert found.correct(truth).mean() == pytest.approx((theirs.predict(q) == np.array(truth)).mean(), abs=0.006)
    assert ours.converged


def test_the_limit_of_iterations_is_kept_and_said() -> None:
    x, y = cloud(1, 300, 9)
    model = classifier.fit_logistic(x, y, c=1000.0, max_iterations=3)
    assert model.iterations == 3
    assert not model.converged


def test_accuracy_by_item_and_labels_never_fitted() -> None:
    x, y = cloud(1, 300, 5)
    q, truth = cloud(2, 80, 5)
    scores = classifier.classifier_accuracy(x, y, q, truth)
    assert scores.shape == (80,)
    assert set(scores.tolist()) <= {0.0, 1.0}
    assert scores.mean() > 0.6
    assert classifier.classifier_accuracy(x, y, q, ["never seen"] * 80).sum() == 0


def test_few_shot_is_the_mean_of_classifiers_on_a_few_of_each_label() -> None:
    x, y = cloud(1, 400, 6)
    q, truth = cloud(2, 150, 6)
    found = classifier.few_shot(x, y, q, truth, per_label=5, experiments=4)
    # The first experiment, written out with scikit-learn.
    order = list(range(400))
    np.random.RandomState(42).shuffle(order)
    taken: Counter[str] = Counter()
    rows = [row for row in order if not taken.update([y[row]]) and taken[y[row]] <= 5]
    first = LogisticRegression(max_iter=100).fit(x[rows], [y[row] for row in rows])
    assert found.experiments[0] == pytest.approx((first.predict(q) == np.array(truth)).mean(), abs=0.01)
    assert len(found.experiments) == 4
    assert len(set(found.experiments)) > 1
    assert found.items.mean() == pytest.approx(np.mean(found.experiments))
    assert found.to_json()["per_label"] == 5
    again = classifier.few_shot(x, y, q, truth, per_label=5, experiments=4)
    assert again.experiments == found.experiments


def test_the_vote_names_the_label_that_accuracy_counts() -> None:
    x, y = cloud(1, 300, 5)
    q, truth = cloud(2, 120, 5)
    found = knn_predictions(x, y, q)
    assert np.allclose(np.exp(found.logs).sum(axis=1), 1.0)
    assert (np.exp(found.logs) > 0).all()
    assert np.array_equal(found.correct(truth), knn_accuracy(x, y, q, truth))
    # Where no neighbour has a cosine above 0, every label is as likely.
    assert np.allclose(np.exp(knn_predictions(x[:1], y[:1], -x[:1]).logs), 1.0)
    two = knn_predictions(x[:2], ["a", "b"], np.zeros((1, 16), np.float32))
    assert np.allclose(np.exp(two.logs), 0.5)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = cloud(1, 20, 3)
    with pytest.raises(VectorsRefused, match="two labels"):
        classifier.fit_logistic(x, ["one"] * 20)
    with pytest.raises(VectorsRefused, match="one length"):
        classifier.fit_logistic(x, y[:3])
    with pytest.raises(VectorsRefused, match="one length"):
        classifier.few_shot(x, y, x, y[:3])
    with pytest.raises(VectorsRefused, match="at least"):
        classifier.few_shot(x, y, x[:0], [])
    with pytest.raises(VectorsRefused, match="one length"):
        knn_predictions(x, y[:3], x)
    with pytest.raises(VectorsRefused, match="of shape"):
        Predictions.of_logits(["a"], np.full((1, 1), np.nan))
    with pytest.raises(VectorsRefused, match="one length"):
        knn_predictions(x, y, x).correct(y[:3])
