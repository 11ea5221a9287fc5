"""Precision, recall and F1 by label and on average are scikit-learn's, on the items and in every bootstrap sample."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from monitoring.classification import MACRO, class_report
from monitoring.errors import VectorsRefused
from monitoring.significance import drawn_counts


def labels(seed: int, items: int = 120, kinds: int = 6) -> tuple[list[str], list[str]]:
    """What is named, and the right labels; one label is only ever named, and one is never."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, kinds, items)
    named = np.where(rng.random(items) < 0.7, truth, rng.integers(0, kinds + 1, items))
    named[named == 0] = 1
    return [f"label {n}" for n in named], [f"label {t}" for t in truth]


def sklearn_means(named: list[str], truth: list[str]) -> list[float]:
    scores = precision_recall_fscore_support(truth, named, average="macro", zero_division=0)[:3]
    return [float(accuracy_score(truth, named)), *map(float, scores)]


@pytest.mark.parametrize("seed", range(4))
def test_every_number_is_sklearns(seed: int) -> None:
    named, truth = labels(seed)
    found = class_report(named, truth, n=50)
    means = [found.accuracy.mean, *(found.macro[name].mean for name in MACRO)]
    assert means == pytest.approx(sklearn_means(named, truth), abs=1e-12)
    order = sorted({*named, *truth})
    expected = precision_recall_fscore_support(truth, named, labels=order, zero_division=0)
    rows = {row.label: (row.precision, row.recall, row.f1, row.items) for row in found.labels}
    assert sorted(rows) == order
    for label, *scores in zip(order, *expected, strict=True):
        assert rows[label] == pytest.approx(tuple(map(float, scores)), abs=1e-12)
    assert [row.f1 for row in found.labels] == sorted(row.f1 for row in found.labels)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["macro_f1"]["items"] == 120


@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_are_quantiles_of_sklearns_numbers_on_the_drawn_items(clustered: bool) -> None:
    """With labels that a sample lacks left out of its mean, as they would be on those items."""
    named, truth = labels(7, items=40, kinds=8)
    clusters = np.arange(40) // 3 if clustered else np.arange(40)
    found = class_report(named, truth, clusters if clustered else None, n=60, seed=5)
    samples = []
    for counts in np.concatenate(list(drawn_counts(int(clusters.max()) + 1, seed=5, n=60))):
        drawn = np.repeat(np.arange(40), counts[clusters].astype(int))
        samples.append(sklearn_means([named[i] for i in drawn], [truth[i] for i in drawn]))
    bounds = np.quantile(np.array(samples), [0.025, 0.975], axis=0)
    for at, interval in enumerate([found.accuracy, *(found.macro[name] for name in MACRO)]):
        assert (interval.low, interval.high) == pytest.approx(tuple(bounds[:, at]), abs=1e-12)
        assert (interval.items, interval.clusters) == (40, len(np.unique(clusters)))


def test_a_perfect_classifier_and_refusals() -> None:
    found = class_report(["a", "b", "b"], ["a", "b", "b"])
    assert (found.accuracy.low, found.accuracy.high, found.macro["macro_f1"].low) == (1.0, 1.0, 1.0)
    assert [(row.label, row.items) for row in found.labels] == [("a", 1), ("b", 2)]
    for named, truth in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(VectorsRefused, match="one length"):
            class_report(named, truth)
    with pytest.raises(VectorsRefused, match="one mark"):
        class_report(["a", "b"], ["a", "b"], [1])
