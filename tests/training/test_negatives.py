"""Mined negatives: foreign, near but not too near, easy first and hard last, never without some drawn at random."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.recipe import Recipe
from registry.row import RowKind
from training.negatives import Miner, graded, too_near
from training.problem import LabelledProblem, PairProblem, Problem


def miner(problem: Problem, seed: int = 0, **fields: object) -> Miner:
    kind = RowKind.LABELLED if isinstance(problem, LabelledProblem) else RowKind.PAIRS
    recipe = Recipe.from_mapping({"hard_negatives": 4, "batch_size": 64, **fields}).resolved(kind)
    made = Miner(problem, recipe, np.random.default_rng(seed))
    made.refresh(problem.vectors)
    return made


def test_labels_get_rows_of_other_labels_that_the_batch_lacks(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    problem = labelled_problem()
    one = np.flatnonzero(problem.fit_labels == 3)
    mined = miner(problem).draw(one, 1.0)
    assert len(mined)
    assert len(np.unique(mined)) == len(mined)
    assert not np.isin(3, problem.fit_labels[mined])
    many = np.arange(0, len(problem.fit), 2)
    again = miner(problem).draw(many, 0.5)
    assert not np.isin(problem.fit[again], problem.fit[many]).any()


def test_pairs_get_texts_that_answer_no_anchor_they_are_for(pair_problem: Callable[..., PairProblem]) -> None:
    problem = pair_problem()
    # The first anchor has ten answers: none of them may be mined for it.
    problem.fit_anchors[:10] = problem.fit_anchors[0]
    mined = miner(problem, positive_share=1.0).draw(np.array([0]), 1.0)
    assert len(mined)
    assert not np.isin(mined, problem.fit_positives[:10]).any()
    assert not np.isin(mined, problem.fit_anchors[:1]).any()


def test_what_is_nearly_as_near_as_the_positive_is_left_out(pair_problem: Callable[..., PairProblem]) -> None:
    problem = pair_problem()
    for row in range(20):
        mined = miner(problem, random_share=0.0, seed=row).draw(np.array([row]), 1.0)
        anchor, positive = problem.vectors[[problem.fit_anchors[row], problem.fit_positives[row]]]
        cosines = problem.vectors[mined] @ anchor
        assert (cosines < 0.95 * float(anchor @ positive)).all()


@pytest.mark.parametrize(("positive", "limit"), [(0.8, 0.76), (-0.4, -0.42), (0.0, 0.0), (-np.inf, -np.inf)])
def test_the_limit_lies_below_the_positive_whatever_its_sign(positive: float, limit: float) -> None:
    assert too_near(positive, 0.95) == pytest.approx(limit)


def test_negatives_get_harder_and_random_ones_stay(pair_problem: Callable[..., PairProblem]) -> None:
    problem, rows = pair_problem(), np.arange(8)

    def nearness(progress: float, **fields: object) -> float:
        drawn = [miner(problem, seed, **fields).draw(rows, progress) for seed in range(10)]
        anchors = problem.vectors[problem.fit_anchors[rows]]
        return float(np.mean([(anchors @ problem.vectors[mined].T).max(axis=0).mean() for mined in drawn]))

    only_hard = [nearness(progress, random_share=0.0) for progress in (0.0, 0.5, 1.0)]
    assert only_hard == sorted(only_hard)
    assert only_hard[2] > only_hard[0] + 0.02
    assert nearness(1.0, random_share=1.0) < only_hard[2] - 0.01
    assert nearness(0.0, random_share=1.0) == nearness(1.0, random_share=1.0)


@given(count=st.integers(0, 80), wanted=st.integers(0, 8), progress=st.floats(0, 1))
def test_the_window_moves_from_the_easy_to_the_hard_end(count: int, wanted: int, progress: float) -> None:
    drawn = graded(np.arange(count), wanted, progress, np.random.default_rng(0))
    assert len(drawn) == len(set(drawn.tolist())) == min(wanted, count)
    if len(drawn) and progress == 1.0:
        assert drawn.max() < 4 * wanted
    if len(drawn) and progress == 0.0:
        assert drawn.min() >= count - 4 * wanted


def test_nothing_is_drawn_before_the_first_search_nor_for_the_only_label(
    labelled_problem: Callable[..., LabelledProblem],
) -> None:
    problem = labelled_problem(classes=1)
    assert len(miner(problem).draw(np.arange(5), 1.0)) == 0
    recipe = Recipe(hard_negatives=2).resolved(RowKind.LABELLED)
    with pytest.raises(RuntimeError, match="refresh"):
        Miner(problem, recipe, np.random.default_rng(0)).draw(np.arange(5), 1.0)
