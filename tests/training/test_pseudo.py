"""Pseudo-labels: propagation against its closed form, calibrated confidence, caps, and what is never learnt from."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from training.problem import LabelledProblem
from training.propagation import ALPHA, ROUNDS, graph, propagate
from training.pseudo import apart, pseudo_labels


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clouds(seed: int, per_class: int, spread: float, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    labels = np.repeat(np.arange(classes), per_class)
    return unit(centres[labels] + rng.normal(size=(len(labels), 16)) * spread), labels.astype(np.int64)


def few(per_class: int = 3, spread: float = 1.0) -> tuple[LabelledProblem, np.ndarray, np.ndarray]:
    """A few labelled rows of each class, as many to select by, and a pool with its true labels."""
    fit, fit_labels = clouds(1, per_class, spread)
    select, select_labels = clouds(2, per_class * 3, spread)
    pool, pool_labels = clouds(3, 80, spread)
    n = len(fit)
    problem = LabelledProblem(
        np.concatenate([fit, select]), np.arange(n), fit_labels, np.arange(n, n + len(select)), select_labels
    )
    return problem, pool, pool_labels


def test_the_graph_is_symmetric_without_loops_and_normalised() -> None:
    vectors, _ = clouds(4, 20, 1.0)
    dense = graph(vectors).toarray()
    np.testing.assert_allclose(dense, dense.T, atol=1e-6)
    assert (np.diag(dense) == 0).all()
    assert np.linalg.eigvalsh(dense.astype(np.float64)).max() == pytest.approx(1.0, abs=1e-5)


def test_propagation_comes_near_its_closed_form() -> None:
    labelled, labels = clouds(1, 3, 0.8)
    others, _ = clouds(3, 20, 0.8)
    dense = graph(np.concatenate([labelled, others])).toarray().astype(np.float64)
    known = np.zeros((len(dense), 6))
    known[np.arange(len(labels)), labels] = 1
    # What the rounds have not reached yet weighs ALPHA ** ROUNDS.
    exact = np.zeros_like(known)
    for power in range(ROUNDS):
        exact += (1 - ALPHA) * ALPHA**power * np.linalg.matrix_power(dense, power) @ known
    exact += ALPHA**ROUNDS * np.linalg.matrix_power(dense, ROUNDS) @ known
    wanted = exact[len(labels) :]
    wanted *= known.mean(axis=0) / wanted.mean(axis=0)
    wanted /= wanted.sum(axis=1, keepdims=True)
    found = propagate(labelled, labels, others)
    assert found.labels == tuple("012345")
    np.testing.assert_allclose(np.exp(found.logs), wanted, atol=2e-4)


def test_labels_reach_texts_that_no_labelled_one_is_near() -> None:
    """Two crescents: the nearest labelled point is often of the other one, the graph follows the arc."""
    angle = np.linspace(0, np.pi, 60)
    one = np.stack([np.cos(angle), np.sin(angle), np.full(60, 2.0)], axis=1)
    two = np.stack([1 - np.cos(angle), 0.45 - np.sin(angle), np.full(60, 2.0)], axis=1)
    vectors, truth = unit(np.concatenate([one, two])), np.repeat([0, 1], 60)
    rows = np.array([30, 90])
    others = np.setdiff1d(np.arange(120), rows)
    found = propagate(vectors[rows], truth[rows], vectors[others])
    by_graph = np.mean([int(name) for name in found.named()] == truth[others])
    nearest = (vectors[others] @ vectors[rows].T).argmax(axis=1)
    assert by_graph > np.mean(nearest == truth[others]) + 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_confidence_is_calibrated_and_a_threshold_raises_precision(seed: int) -> None:
    problem, pool, truth = few(per_class=4, spread=1.1)
    mix = np.random.default_rng(seed).permutation(len(pool))
    pool, truth = pool[mix], truth[mix]
    everything = pseudo_labels(problem, pool, lambda v: v, threshold=0.01, cap=1000)
    right = everything.labels == truth[everything.rows]
    assert len(right) == len(pool)
    assert abs(right.mean() - everything.weights.mean()) < 0.12
    sure = pseudo_labels(problem, pool, lambda v: v, threshold=0.8, cap=1000)
    assert (sure.weights >= 0.8).all()
    assert (sure.labels == truth[sure.rows]).mean() > right.mean()
    assert sure.report["expected_precision"] == pytest.approx(float(sure.weights.mean()), abs=1e-4)


def test_caps_hold_for_each_label_and_overall_and_the_surest_come_first() -> None:
    problem, pool, _ = few(per_class=3, spread=0.6)
    # A pool in which one class is five times as frequent as the others.
    pool = np.concatenate([pool, *(pool[:80] for _ in range(4))])
    taken = pseudo_labels(problem, pool, lambda v: v, threshold=0.05, cap=2)
    counts = np.bincount(taken.labels, minlength=6)
    assert counts.max() <= 6
    assert len(taken.rows) <= 2 * len(problem.fit)
    assert (np.diff(taken.weights) <= 0).all()
    assert len(set(taken.rows.tolist())) == len(taken.rows)
    assert taken.report["taken"] == len(taken.rows)


def test_doubted_rows_spread_no_label() -> None:
    problem, pool, _ = few()
    weights = np.ones(len(problem.fit), np.float32)
    weights[problem.fit_labels == 0] = 0.9
    taken = pseudo_labels(
        dataclasses.replace(problem, fit_weights=weights), pool, lambda v: v, threshold=0.01, cap=1000
    )
    assert 0 not in taken.labels


def test_nothing_to_learn_from_takes_nothing(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem()
    none = pseudo_labels(problem, problem.vectors[:0], lambda v: v, threshold=0.5, cap=3)
    assert none.report["taken"] == 0
    assert none.report["expected_precision"] is None
    unsure = pseudo_labels(problem, problem.vectors[:9], lambda v: v, threshold=1.0, cap=3)
    assert unsure.report["taken"] == len(unsure.rows)


def test_texts_near_a_held_out_one_or_repeated_are_never_learnt_from() -> None:
    held = ["How do I change the PIN of my new bank card today?", "Where is my money?"]
    known = ["My card was swallowed by a machine"]
    texts = [
        "how do i change the pin of my new bank card today",  # the same but for case and marks
        "How do I change the PIN of my new bank cards today?",  # a near-duplicate
        "WHERE is my money?!",
        "My card was swallowed by a machine.",  # fitted anyway
        "Can I order a second card?",
        "can i order a second card",  # an earlier one again
        "What does a transfer to Spain cost?",
    ]
    assert apart(texts, held, known).tolist() == [False, False, False, False, True, False, True]
    assert apart(texts[4:5], []).tolist() == [True]
    assert apart([], held).tolist() == []
    # However many resemble it: a group of near-duplicates is not cut off at some size.
    crowd = [f"How do I change the PIN of my new bank card today {'!' * n} {chr(97 + n % 26)}" for n in range(60)]
    assert not apart(crowd, held).any()
