"""The watch on a fit: its measures against plain numpy, and collapse on foreign rows and on generic texts."""

from collections.abc import Callable

import numpy as np
import pytest

from monitoring.collapse import GeometryLimits
from monitoring.geometry import effective_rank, mean_random_pair_cosine, uniformity
from training.fit_watch import Watch
from training.problem import LabelledProblem, PairProblem, Vectors
from training.progress import Course
from training.weights import HeadWeights

LIMITS = GeometryLimits()


def same(vectors: Vectors) -> Vectors:
    return vectors


def squeezed(vectors: Vectors) -> Vectors:
    """Every vector pulled to one direction."""
    moved = vectors.copy()
    moved[:, 0] += 3
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)


def test_labels_are_measured_by_their_formulas(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem()
    measured = Watch(problem, 0.2, LIMITS).measure(same)
    queries, index = problem.vectors[problem.select].astype(np.float64), problem.vectors[problem.fit]
    own, foreign, losses = [], [], []
    for query, label in zip(queries, problem.select_labels, strict=True):
        cosines = index.astype(np.float64) @ query
        mine = problem.fit_labels == label
        own += [float(np.sum((query - row) ** 2)) for row in index[mine]]
        foreign += cosines[~mine].tolist()
        losses.append(-np.log(np.exp(cosines[mine] / 0.2).sum() / np.exp(cosines / 0.2).sum()))
    assert measured["alignment"] == pytest.approx(np.mean(own), rel=1e-5)
    assert measured["foreign_cosine"] == pytest.approx(np.mean(foreign), rel=1e-5)
    assert measured["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for name, function in (
        ("uniformity", uniformity), ("effective_rank", effective_rank), ("mean_pair_cosine", mean_random_pair_cosine)
    ):  # fmt: skip
        assert measured[name] == pytest.approx(function(problem.vectors[problem.select]), rel=1e-5)


def test_pairs_count_shared_anchors_and_answers_as_own(pair_problem: Callable[..., PairProblem]) -> None:
    problem = pair_problem()
    problem.select_anchors[1] = problem.select_anchors[0]
    problem.select_positives[3] = problem.select_positives[2]
    anchors, positives = problem.vectors[problem.select_anchors], problem.vectors[problem.select_positives]
    own = np.eye(len(anchors), dtype=bool)
    own[0, 1] = own[1, 0] = own[2, 3] = own[3, 2] = True
    cosines = (anchors @ positives.T).astype(np.float64)
    measured = Watch(problem, 0.1, LIMITS).measure(same)
    assert measured["alignment"] == pytest.approx(np.mean(2 - 2 * cosines[own]), rel=1e-5)
    assert measured["foreign_cosine"] == pytest.approx(np.mean(cosines[~own]), rel=1e-5)


def test_collapse_is_seen_on_foreign_rows_and_on_generic_texts(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    problem = labelled_problem()
    generic = problem.vectors[np.random.default_rng(0).permutation(len(problem.vectors))[:100]]
    bare, probed = Watch(problem, 0.1, LIMITS), Watch(problem, 0.1, LIMITS, generic)
    for watch in (bare, probed):
        assert watch.collapse(same) == []
    (reason,) = bare.collapse(squeezed)
    assert "texts of different kinds have a mean cosine of" in reason
    assert len(probed.collapse(squeezed)) > 1


def test_a_pull_together_of_one_label_is_no_collapse(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem(classes=3)
    centres = np.eye(48, dtype=np.float32)
    vectors = problem.vectors.copy()
    for rows, labels in ((problem.fit, problem.fit_labels), (problem.select, problem.select_labels)):
        vectors[rows] = centres[labels]
    watch = Watch(problem, 0.1, LIMITS)

    def pulled(base: Vectors) -> Vectors:
        return vectors[np.argmax(base @ problem.vectors.T, axis=1)]

    assert watch.measure(pulled)["effective_rank"] < 4
    assert watch.collapse(pulled) == []


def weights(value: float) -> HeadWeights:
    return HeadWeights(np.full((2, 2), value, np.float32), np.zeros(2, np.float32))


def measures(loss: float) -> dict[str, float]:
    return {"loss": loss, "alignment": 0.5}


def test_the_best_has_the_best_score_then_the_lowest_loss_and_never_collapsed() -> None:
    course = Course(2, weights(0))
    for step, score, loss in ((1, 0.5, 1.0), (2, 0.6, 0.9), (3, 0.6, 0.8), (4, 0.6, 0.85)):
        course.add(step, score, measures(loss), weights(step), [])
    course.add(5, 0.9, measures(0.1), weights(5), ["all texts are one"])
    assert (course.best_step, course.best_score) == (3, 0.6)
    assert course.best_weights.out_weight[0, 0] == 3
    assert course.reasons == ["all texts are one"]
    table = course.geometry(measures(2.0) | {"alignment": float("nan")})
    assert table == {
        "step": [0, 1, 2, 3, 4, 5],
        "loss": [2.0, 1.0, 0.9, 0.8, 0.85, 0.1],
        "alignment": [None, 0.5, 0.5, 0.5, 0.5, 0.5],
    }


def test_a_fit_goes_on_while_score_or_loss_gets_better() -> None:
    course = Course(2, weights(0))
    for step, (score, loss, exhausted) in enumerate(
        [(0.5, 1.0, False), (0.5, 0.9, False), (0.5, 0.8, False), (0.5, 0.8, False), (0.6, 0.9, False),
         (0.6, 0.9, False), (0.6, 0.9, True)]
    ):  # fmt: skip
        course.add(step, score, measures(loss), weights(0), [])
        assert course.exhausted == exhausted


def test_a_loss_that_cannot_be_measured_leaves_the_score_to_decide() -> None:
    course = Course(2, weights(0))
    for step, score in enumerate((0.5, 0.5, 0.5)):
        course.add(step, score, measures(float("nan")), weights(step), [])
    assert course.exhausted
    assert course.best_step == 0
