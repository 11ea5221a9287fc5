"""The watch on a fit: its measures against plain numpy, and collapse on foreign rows and on generic texts."""

from collections.abc import Callable

import numpy as np
import pytest

from monitoring.collapse import GeometryLimits
from monitoring.geometry import effective_rank, mean_random_pair_cosine, uniformity
from monitoring.quality import Scores
from monitoring.recipe import Recipe
from training.fit import EVALUATIONS
from training.fit_measures import NOISE, margin_measures, neighbor_measures, prototype_measures, shaken
from training.fit_watch import MAX_INDEX, MAX_QUERIES, Watch
from training.problem import LabelledProblem, PairProblem, Vectors
from training.progress import MAX_POINTS, Course, thinned
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


def scores(mean: float) -> Scores:
    """Eight items of one score."""
    return np.full(8, mean)


def test_the_latest_state_that_lost_nothing_is_kept_and_none_that_collapsed() -> None:
    course = Course(2, weights(0))
    for step, score, loss in ((1, 0.5, 1.0), (2, 0.6, 0.9), (3, 0.6, 0.8), (4, 0.55, 0.85)):
        course.add(step, scores(score), measures(loss), weights(step), [])
    course.add(5, scores(0.9), measures(0.1), weights(5), ["all texts are one"])
    assert (course.best_step, course.best_score) == (3, pytest.approx(0.6))
    assert course.best_weights.out_weight[0, 0] == 3
    assert course.reasons == ["all texts are one"]
    table = course.geometry(measures(2.0) | {"alignment": float("nan")})
    assert table == {
        "step": [0, 1, 2, 3, 4, 5],
        "loss": [2.0, 1.0, 0.9, 0.8, 0.85, 0.1],
        "alignment": [None, 0.5, 0.5, 0.5, 0.5, 0.5],
    }


def test_a_loss_of_score_within_its_standard_error_is_none() -> None:
    best = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    mixed, worse = best.copy(), best.copy()
    mixed[[0, 1, 3]] = 0.0, 0.0, 1.0
    worse[[0, 1, 2]] = 0.0
    for items, kept in ((mixed, 2), (worse, 1)):
        course = Course(3, weights(0))
        course.add(1, best, measures(1.0), weights(1), [])
        course.add(2, items, measures(1.0), weights(2), [])
        lost = best - items
        assert (lost.mean() <= lost.std() / np.sqrt(8)) == (kept == 2)
        assert course.best_step == kept


def test_a_fit_goes_on_while_score_or_loss_gets_better() -> None:
    course = Course(2, weights(0))
    for step, (score, loss, exhausted) in enumerate(
        [(0.5, 1.0, False), (0.5, 0.9, False), (0.5, 0.8, False), (0.5, 0.8, False), (0.6, 0.9, False),
         (0.6, 0.9, False), (0.6, 0.9, True)]
    ):  # fmt: skip
        course.add(step, scores(score), measures(loss), weights(0), [])
        assert course.exhausted == exhausted


def test_a_loss_that_cannot_be_measured_leaves_the_score_to_decide() -> None:
    course = Course(2, weights(0))
    for step, score in enumerate((0.5, 0.5, 0.5)):
        course.add(step, scores(score), measures(float("nan")), weights(step), [])
    assert course.exhausted
    assert course.best_step == 2


def test_a_measurement_adapts_a_bounded_number_of_rows(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem(classes=40, per_class=120)
    watch = Watch(problem, 0.1, LIMITS, problem.vectors[:2_000])
    seen: list[int] = []

    def counted(vectors: Vectors) -> Vectors:
        seen.append(len(vectors))
        return vectors

    watch.measure(counted)
    assert sum(seen) <= 2 * MAX_QUERIES + MAX_INDEX < len(problem.vectors)
    seen.clear()
    watch.collapse(counted)
    assert sum(seen) <= 3 * MAX_QUERIES
    # A step adapts its rows once and goes back over them at twice the price.
    evaluations = EVALUATIONS + 1
    assert evaluations * (5 * MAX_QUERIES + MAX_INDEX) < 0.1 * 3 * Recipe().steps * Recipe().batch_size


def test_margins_prototypes_and_stability_by_their_formulas(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem(classes=5)

    def tilted(vectors: Vectors) -> Vectors:
        moved = vectors + np.roll(vectors, 1, axis=1) * 0.5
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)

    measured = Watch(problem, 0.1, LIMITS).measure(tilted)
    queries, index = tilted(problem.vectors[problem.select]), tilted(problem.vectors[problem.fit])
    margins, own_distances = [], []
    means = [index[problem.fit_labels == label].mean(axis=0) for label in range(5)]
    prototypes = [mean / np.linalg.norm(mean) for mean in means]
    for query, label in zip(queries, problem.select_labels, strict=True):
        cosines = index @ query
        margins.append(max(cosines[problem.fit_labels == label]) - max(cosines[problem.fit_labels != label]))
        own_distances.append(1 - query @ prototypes[label])
    nearest_two = min(1 - prototypes[a] @ prototypes[b] for a in range(5) for b in range(a))
    noisy = shaken(problem.vectors[problem.select])
    wanted = {
        "margin_p10": np.quantile(margins, 0.1), "margin_median": np.median(margins),
        "margin_p90": np.quantile(margins, 0.9), "margin_below_zero": np.mean(np.array(margins) < 0),
        "prototype_nearest": nearest_two, "prototype_own": np.mean(own_distances),
        "stability": np.mean([a @ b for a, b in zip(queries, tilted(noisy), strict=True)]),
    }  # fmt: skip
    for name, value in wanted.items():
        assert measured[name] == pytest.approx(value, rel=1e-4), name


def test_neighbourhoods_are_compared_with_the_base_and_the_labels(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    problem = labelled_problem(classes=6)
    assert (problem.fit_labels == 0).sum() > 10
    watch = Watch(problem, 0.1, LIMITS)

    def ten(vectors: Vectors) -> list[set[int]]:
        cosines = vectors[problem.select] @ vectors[problem.fit].T
        return [set(np.argsort(-row, kind="stable")[:10].tolist()) for row in cosines]

    moved = squeezed(problem.vectors)
    before, now = ten(problem.vectors), ten(moved)
    overlap = np.mean([len(a & b) / 10 for a, b in zip(before, now, strict=True)])
    agreement = np.mean([
        np.mean([problem.fit_labels[row] == label for row in rows])
        for rows, label in zip(now, problem.select_labels, strict=True)
    ])  # fmt: skip
    assert watch.base["neighbor_overlap"] == 1.0
    measured = watch.measure(squeezed)
    assert measured["neighbor_overlap"] == pytest.approx(overlap)
    assert measured["neighbor_agreement"] == pytest.approx(agreement)


def test_few_rows_of_a_kind_can_all_be_among_the_neighbours(pair_problem: Callable[..., PairProblem]) -> None:
    base = Watch(pair_problem(), 0.1, LIMITS).base
    assert 0.5 < base["neighbor_agreement"] <= 1.0
    assert np.isnan(base["prototype_nearest"])
    assert np.isnan(base["prototype_own"])


def test_what_cannot_be_measured_is_not_a_number() -> None:
    nothing = np.zeros((2, 3), dtype=bool)
    assert all(np.isnan(value) for value in margin_measures(np.zeros((2, 3)), nothing, ~nothing).values())
    found = neighbor_measures(nothing, nothing, nothing)
    assert all(np.isnan(value) for value in found.values())
    vectors = np.eye(2, dtype=np.float32)
    alone = prototype_measures(vectors, np.array([4, 4]), vectors, np.array([7, 9]))
    assert all(np.isnan(value) for value in alone.values())


def test_noise_has_its_stated_size_and_keeps_lengths() -> None:
    base = np.random.default_rng(5).normal(size=(200, 300)).astype(np.float32)
    noisy = shaken(base)
    lengths = np.linalg.norm(base, axis=1)
    assert np.allclose(np.linalg.norm(noisy, axis=1), lengths, rtol=1e-5)
    cosines = np.sum(base * noisy, axis=1) / lengths**2
    assert np.mean(cosines) == pytest.approx(1 / np.sqrt(1 + NOISE**2), abs=2e-3)
    assert np.array_equal(noisy, shaken(base))


def test_stored_curves_keep_the_first_the_best_and_the_last_point() -> None:
    report = {
        "base_score": 0.1,
        "best_step": 777,
        "curve": [(step, step / 2000) for step in range(1, 1001)],
        "geometry": {"step": list(range(1001)), "loss": [None, *range(1, 1001)]},
    }
    curves = thinned(report)
    assert {len(values) for values in curves.values()} == {len(curves["step"])}
    assert len(curves["step"]) <= MAX_POINTS
    assert (curves["step"][0], curves["step"][-1]) == (0, 1000)
    assert 777 in curves["step"]
    place = curves["step"].index(777)
    assert (curves["score"][place], curves["loss"][place]) == (777 / 2000, 777)
    assert curves["score"][0] == 0.1
    assert curves["loss"][0] is None
