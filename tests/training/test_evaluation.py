"""What the gate is told: scores of every item, calibration, groups, and whether a judged row was fitted on."""

import dataclasses

import numpy as np
import pytest

from monitoring.recipe import Recipe
from registry.row import Row, RowKind
from training.data import Corpus, gate_items, part
from training.evaluation import groups_of, item_scores, leakage_of

LABELS = ("refund", "card", "login")


@pytest.fixture(scope="module")
def labelled():
    rows = [
        Row(text=f"{label} question number {n} about {n * 7 % 13} things", label=label)
        for label in LABELS
        for n in range(60)
    ]
    return Corpus.of(rows, RowKind.LABELLED), part(rows, seed=0)


@pytest.fixture(scope="module")
def pairs():
    rows = [
        Row(anchor=f"how do I do thing {n} of {n * n}", positive=f"thing {n} is done by step {n * 3}")
        for n in range(120)
    ]
    return Corpus.of(rows, RowKind.PAIRS), part(rows, seed=0)


def vectors_of(corpus, spread):
    """Unit vectors around one direction a label, or a pair."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(len(corpus.texts), 32))
    if corpus.labels:
        by_label = dict(zip(LABELS, draw.normal(size=(3, 32)), strict=True))
        centres = np.stack([by_label[label] for label in corpus.labels])
    else:
        centres[corpus.positive] = centres[corpus.subject]
    noisy = centres + spread * draw.normal(size=centres.shape)
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def test_labels_are_scored_calibrated_and_grouped(labelled):
    corpus, parts = labelled
    items = gate_items(corpus, parts)
    base = vectors_of(corpus, 0.3)
    good, vote = item_scores(corpus, parts, items, base)
    bad, worse = item_scores(corpus, parts, items, vectors_of(corpus, 4.0))
    assert {"ndcg_at_10", "knn_accuracy", "nn_accuracy", "mrr_at_10", "recall_at_10", "calibration"} <= good.keys()
    assert all(len(scores) == len(items.queries) for scores in good.values())
    assert all(
        good[name].mean() > bad[name].mean() for name in ("ndcg_at_10", "knn_accuracy", "mrr_at_10", "calibration")
    )
    assert vote is not None
    assert worse is not None
    assert 0 < vote.scaled.temperature < worse.scaled.temperature
    rows = [Row(text=text, label=label) for text, label in zip(corpus.texts, corpus.labels, strict=True)]
    groups = groups_of(corpus, rows, parts, items, base)
    assert list(groups) == ["label", "length", "novelty"]
    assert groups["label"] == items.query_labels
    assert all(len(marks) == len(items.queries) for marks in groups.values())


def test_pairs_are_scored_without_probabilities(pairs):
    corpus, parts = pairs
    items = gate_items(corpus, parts)
    base = vectors_of(corpus, 0.1)
    scores, vote = item_scores(corpus, parts, items, base)
    assert scores["nn_accuracy"].mean() > 0.9
    assert vote is None
    rows = [
        Row(anchor=corpus.texts[anchor], positive=corpus.texts[positive], group=f"team {n % 3}")
        for n, (anchor, positive) in enumerate(zip(corpus.subject, corpus.positive, strict=True))
    ]
    assert list(groups_of(corpus, rows, parts, items, base)) == ["group", "length", "novelty"]


def test_a_split_has_no_leak_and_a_row_on_both_sides_is_one(labelled, pairs):
    for corpus, parts in (labelled, pairs):
        for refit in (False, True):
            assert leakage_of(corpus, parts, Recipe(refit=refit)).rows == ()
        leaking = dataclasses.replace(parts, fit=np.append(parts.fit, parts.judged[3]))
        found = leakage_of(corpus, leaking, Recipe())
        assert 3 in found.rows
        assert not found.reason().ok
