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
from training.fit import ALPHAS, fit_head
from training.problem import LabelledProblem, PairProblem
from training.selection import Selector

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
    items = {alpha: selector.items(weights.scaled(alpha).apply) for alpha in ALPHAS}
    best = max(items.values(), key=lambda scores: float(scores.mean()))
    near = [a for a, s in items.items() if (best - s).mean() <= (best - s).std() / np.sqrt(len(best))]
    kept = fit_head(problem, LABELS, quiet)
    assert kept.report["alpha"] == min(near)
    assert kept.report["select_score"] == pytest.approx(float(items[min(near)].mean()), abs=1e-4)
