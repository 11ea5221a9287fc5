"""Fitting: it helps on rows it never saw, gives the same head again, and stops when there is nothing more to gain."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from monitoring.errors import VectorsRefused
from monitoring.quality import knn_accuracy
from monitoring.recipe import Recipe
from registry.row import RowKind
from training.errors import FitFailed
from training.fit import dropout_of, fit_head
from training.problem import LabelledProblem, PairProblem
from training.selection import Selector
from training.shares import SHARES

LABELS = Recipe(steps=120, hidden=96, batch_size=128).resolved(RowKind.LABELLED)
PAIRS = Recipe(steps=120, hidden=96, batch_size=128).resolved(RowKind.PAIRS)


def quiet(_: dict[str, Any]) -> None:
    pass


def test_labels_improve_rows_that_neither_fit_nor_selection_saw(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    told: list[dict[str, Any]] = []
    whole = labelled_problem(per_class=30)
    half = len(whole.select) // 2
    problem = dataclasses.replace(whole, select=whole.select[:half], select_labels=whole.select_labels[:half])
    fitted = fit_head(problem, LABELS, told.append)

    def unseen(vectors: np.ndarray) -> float:
        index = [str(code) for code in whole.fit_labels]
        truth = [str(code) for code in whole.select_labels[half:]]
        return float(knn_accuracy(vectors[whole.fit], index, vectors[whole.select[half:]], truth).mean())

    before, after = unseen(whole.vectors), unseen(fitted.weights.apply(whole.vectors))
    assert after > before + 0.05
    assert fitted.report["select_score"] > fitted.report["base_score"]
    assert told[0]["step"] == 0
    assert [t["step"] for t in told] == sorted(t["step"] for t in told)
    # What is published was measured again, not taken from the log.
    selector = Selector(problem)
    assert selector.score(fitted.weights.apply) == pytest.approx(fitted.report["select_score"], abs=1e-4)


def test_pairs_improve_retrieval_on_the_selection_split(pair_problem: Callable[..., PairProblem]) -> None:
    report = fit_head(pair_problem(), PAIRS, quiet).report
    assert report["select_score"] > report["base_score"] + 0.03


@pytest.mark.parametrize("kind", ["labels", "pairs"])
def test_one_seed_gives_one_head_and_another_seed_another(
    kind: str, labelled_problem: Callable[..., LabelledProblem], pair_problem: Callable[..., PairProblem]
) -> None:
    problem = labelled_problem() if kind == "labels" else pair_problem()
    recipe = dataclasses.replace(LABELS if kind == "labels" else PAIRS, steps=15)
    first, second = (fit_head(problem, recipe, quiet).weights.to_bytes() for _ in range(2))
    other = fit_head(problem, dataclasses.replace(recipe, seed=1), quiet).weights.to_bytes()
    assert first == second
    assert first != other


def test_a_fit_ends_early_when_nothing_gets_better(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem()
    shuffled = np.random.default_rng(0).permutation(problem.select_labels)
    recipe = dataclasses.replace(LABELS, steps=2_000, patience=2)
    report = fit_head(dataclasses.replace(problem, select_labels=shuffled), recipe, quiet).report
    assert report["stopped"] == "patience"
    assert report["steps_run"] < 1_000


def test_the_time_budget_ends_a_fit_with_the_best_so_far(labelled_problem: Callable[..., LabelledProblem]) -> None:
    recipe = dataclasses.replace(LABELS, steps=100_000, patience=10_000, time_budget_s=1.0)
    fitted = fit_head(labelled_problem(), recipe, quiet)
    assert fitted.report["stopped"] == "time"
    assert fitted.report["seconds"] < 20
    assert fitted.report["best_step"] > 0


def test_alpha_can_be_set_and_the_identity_penalty_holds_back(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    problem = labelled_problem()
    free = fit_head(problem, dataclasses.replace(LABELS, alpha=1.0), quiet)
    held = fit_head(problem, dataclasses.replace(LABELS, alpha=1.0, identity=20.0), quiet)
    half = fit_head(problem, dataclasses.replace(LABELS, alpha=0.5), quiet)
    assert half.report["alpha"] == 0.5

    def moved(fitted: Any) -> float:
        return float(np.linalg.norm(fitted.weights.apply(problem.vectors) - problem.vectors, axis=1).mean())

    assert moved(held) < 0.7 * moved(free)
    assert moved(half) < moved(free)


def test_vectors_that_are_no_numbers_are_refused(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem()
    broken = problem.vectors.copy()
    broken[problem.fit[0]] = np.nan
    with pytest.raises(VectorsRefused, match="NaN"):
        fit_head(dataclasses.replace(problem, vectors=broken), LABELS, quiet)


def teardown_module() -> None:
    torch.use_deterministic_algorithms(False)


def test_the_share_kept_is_the_smallest_within_one_standard_error(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    problem = labelled_problem()
    weights = fit_head(problem, dataclasses.replace(LABELS, alpha=1.0), quiet).weights
    selector = Selector(problem)
    items = {alpha: selector.items(weights.scaled(alpha).apply) for alpha in SHARES}
    best = max(items.values(), key=lambda scores: float(scores.mean()))
    near = [a for a, s in items.items() if (best - s).mean() <= (best - s).std() / np.sqrt(len(best))]
    kept = fit_head(problem, LABELS, quiet)
    assert kept.report["alpha"] == min(near)
    assert kept.report["select_score"] == pytest.approx(float(items[min(near)].mean()), abs=1e-4)


@pytest.mark.parametrize("shape", ["linear", "low_rank", "mlp"])
def test_every_shape_helps(shape: str, labelled_problem: Callable[..., LabelledProblem]) -> None:
    recipe = dataclasses.replace(LABELS, shape=shape, rank=16)
    fitted = fit_head(labelled_problem(), recipe, quiet)
    assert fitted.report["select_score"] > fitted.report["base_score"] + 0.02
    hidden = fitted.weights.hidden_weight
    assert (None if hidden is None else len(hidden)) == {"linear": None, "low_rank": 16, "mlp": 96}[shape]


VARIANTS = [
    {"loss": "debiased", "prior": 0.02},
    {"hard_negatives": 3, "refresh": 10},
    {"temperature_schedule": "cosine", "temperature_end": 0.05},
    {"temperature_schedule": "learned"},
    {"spread": 1.0, "covariance": 0.01},
]


@pytest.mark.parametrize("fields", VARIANTS, ids=lambda fields: next(iter(fields)))
@pytest.mark.parametrize("kind", ["labels", "pairs"])
def test_every_variant_helps_and_is_reproducible(
    kind: str,
    fields: dict[str, Any],
    labelled_problem: Callable[..., LabelledProblem],
    pair_problem: Callable[..., PairProblem],
) -> None:
    problem = labelled_problem() if kind == "labels" else pair_problem()
    recipe = dataclasses.replace(LABELS if kind == "labels" else PAIRS, steps=60, **fields)
    first, second = (fit_head(problem, recipe, quiet) for _ in range(2))
    assert first.report["select_score"] > first.report["base_score"] + 0.02
    assert first.weights.to_bytes() == second.weights.to_bytes()


def test_triplets_help_labels(labelled_problem: Callable[..., LabelledProblem]) -> None:
    report = fit_head(labelled_problem(), dataclasses.replace(LABELS, loss="triplet"), quiet).report
    assert report["select_score"] > report["base_score"]


def test_a_learned_temperature_moves_and_is_reported(labelled_problem: Callable[..., LabelledProblem]) -> None:
    learned = fit_head(labelled_problem(), dataclasses.replace(LABELS, temperature_schedule="learned"), quiet)
    fixed = fit_head(labelled_problem(), LABELS, quiet)
    assert fixed.report["temperature"] == LABELS.temperature
    assert 0.01 <= learned.report["temperature"] <= 0.5
    assert abs(learned.report["temperature"] - 0.1) > 1e-3


def test_the_shape_of_the_vectors_is_reported_at_each_evaluation(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    report = fit_head(labelled_problem(), LABELS, quiet).report
    table = report["geometry"]
    assert table["step"] == [0] + [step for step, _ in report["curve"]]
    for name in ("alignment", "uniformity", "effective_rank", "mean_pair_cosine", "foreign_cosine", "loss"):
        assert len(table[name]) == len(table["step"])
    assert table["alignment"][-1] < table["alignment"][0]
    assert table["loss"][-1] < table["loss"][0]
    assert report["reasons"] == []


def test_a_collapse_stops_the_fit_and_keeps_what_came_before(
    labelled_problem: Callable[..., LabelledProblem], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = labelled_problem()
    strict = dataclasses.replace(LABELS, gate={"geometry": {"min_overlap": 1.0}})
    generic = problem.vectors[problem.select][:60]
    tight = dataclasses.replace(LABELS, gate={"geometry": {"max_uniformity_rise": 0.0, "min_rank_ratio": 1.0}})
    with pytest.raises(FitFailed, match="collapsed from the start: on generic texts"):
        fit_head(problem, tight, quiet, generic=generic)
    # How far neighbourhoods may move is for the gate to say.
    assert fit_head(problem, strict, quiet, generic=generic).report["stopped"] != "collapse"
    found = iter([[], [], ["it is one point"]])
    monkeypatch.setattr("training.fit.Watch.collapse", lambda watch, apply: next(found))
    report = fit_head(problem, LABELS, quiet).report
    assert (report["stopped"], report["reasons"]) == ("collapse", ["it is one point"])
    assert len(report["curve"]) == 3
    assert 0 < report["best_step"] < report["steps_run"]


def test_replay_keeps_other_texts_where_they_were(labelled_problem: Callable[..., LabelledProblem]) -> None:
    problem = labelled_problem()
    rng = np.random.default_rng(9)
    replay = rng.normal(size=(300, problem.vectors.shape[1])).astype(np.float32)
    replay /= np.linalg.norm(replay, axis=1, keepdims=True)
    recipe = dataclasses.replace(LABELS, alpha=1.0)

    def moved(fitted: Any) -> float:
        return float(np.linalg.norm(fitted.weights.apply(replay) - replay, axis=1).mean())

    free = fit_head(problem, dataclasses.replace(recipe, replay=0.0), quiet)
    held = fit_head(problem, dataclasses.replace(recipe, replay=10.0), quiet)
    assert moved(held) < 0.5 * moved(free)
    named = fit_head(problem, dataclasses.replace(recipe, replay=10.0), quiet, replay=np.repeat(replay, 20, axis=0))
    assert moved(named) < moved(held)


@pytest.mark.parametrize("kind", ["labels", "pairs"])
def test_a_refit_learns_from_the_selection_rows_too(
    kind: str, labelled_problem: Callable[..., LabelledProblem], pair_problem: Callable[..., PairProblem]
) -> None:
    problem: Any = labelled_problem() if kind == "labels" else pair_problem()
    recipe = dataclasses.replace(LABELS if kind == "labels" else PAIRS, alpha=1.0, steps=60)
    once = fit_head(problem, recipe, quiet)
    again = fit_head(problem, dataclasses.replace(recipe, refit=True), quiet)
    assert (once.report["refitted"], again.report["refitted"]) == (False, True)
    assert again.report["select_score"] == once.report["select_score"]
    assert Selector(problem).score(again.weights.apply) > once.report["select_score"]


def test_dropout_follows_the_rows_of_a_label(labelled_problem: Callable[..., LabelledProblem]) -> None:
    few, many = labelled_problem(per_class=20), labelled_problem(per_class=60)
    assert [dropout_of(problem, LABELS) for problem in (few, many)] == [0.5, 0.4]
    assert dropout_of(few, dataclasses.replace(LABELS, dropout=0.3)) == 0.3
