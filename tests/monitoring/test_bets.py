"""Bets are fair while nothing has changed: their factor is at most 1 on average, for every law within the bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from monitoring.bets import DELTA_NOVELTY, MAX_SEGMENTS, bets, novelty_bounds
from monitoring.statistics import novel_rank
from monitoring.window import P_VALUE_EDGES

SIZES = (50, 130, 600, 2000, 20_000)


@pytest.mark.parametrize("n_cal", SIZES)
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_novelty_bets_are_fair_for_every_law_below_the_bounds(n_cal: int, seed: int) -> None:
    """p-values at or below each edge with any chance up to its bound, also with all of them at the bound."""
    found = bets(n_cal, (n_cal // 2, n_cal - n_cal // 2))
    used, bounds = novelty_bounds(n_cal)
    rng = np.random.default_rng(seed)
    for share in (np.ones(len(used)), rng.random(len(used)) ** rng.choice([0.1, 1.0, 4.0])):
        at_edges = np.ones(len(P_VALUE_EDGES))
        # Chances of the edges in use, made ascending; edges not in use hold what the next smaller one holds.
        chances = np.maximum.accumulate(bounds * share)
        for i in range(len(P_VALUE_EDGES) - 1):
            below = [k for k, edge in enumerate(used) if edge <= i]
            at_edges[i] = chances[below[-1]] if below else 0.0
        law = np.diff(at_edges, prepend=0.0)
        assert (np.exp(found.novelty) @ law <= 1 + 1e-12).all()
        assert (np.exp(found.segment) @ law <= 1 + 1e-12).all()


@pytest.mark.parametrize("n_cal", SIZES)
def test_a_smaller_p_value_never_earns_less(n_cal: int) -> None:
    factors = bets(n_cal, (n_cal,)).novelty
    assert (np.diff(factors, axis=1) <= 1e-12).all()
    assert factors[:, 0].max() > 1
    assert np.isfinite(factors).all()


@pytest.mark.parametrize("n_cal", SIZES)
def test_the_bounds_hold_for_all_edges_at_once_as_often_as_they_say(n_cal: int) -> None:
    """The chance of a rank at or below l is the l-th smallest of n_cal uniforms: drawn 4,000 times."""
    used, bounds = novelty_bounds(n_cal)
    ranks = [novel_rank(n_cal, P_VALUE_EDGES[i]) for i in used]
    rng = np.random.default_rng(n_cal)
    held = 0
    for _ in range(40):
        uniforms = np.sort(rng.random((100, n_cal)), axis=1)
        held += int((uniforms[:, np.array(ranks) - 1] <= bounds).all(axis=1).sum())
    assert held / 4000 >= 1 - DELTA_NOVELTY - 3 * np.sqrt(DELTA_NOVELTY / 4000)
    assert bounds == pytest.approx(beta.ppf(1 - DELTA_NOVELTY / len(used), ranks, n_cal + 1 - np.array(ranks)))


@settings(max_examples=40)
@given(counts=st.lists(st.integers(0, 400), min_size=2, max_size=48), share=st.floats(0, 1))
def test_cell_bets_are_fair_for_every_share_up_to_the_bound(counts: list[int], share: float) -> None:
    n_cal = max(1, sum(counts))
    found = bets(n_cal, tuple(counts))
    inside, outside = np.exp(found.inside), np.exp(found.outside)
    # e = 1 where the share is at the bound, so the bound can be read off the factors.
    moves = inside - outside > 1e-9
    bound = np.where(moves, (1 - outside) / np.where(moves, inside - outside, 1.0), 0.0)
    mean = share * bound * inside + (1 - share * bound) * outside
    assert (mean <= 1 + 1e-9).all()
    assert (bound[moves] >= np.broadcast_to(np.array(counts)[:, None] / n_cal, bound.shape)[moves]).all()


def test_weights_of_all_bets_together_are_one() -> None:
    found = bets(2000, (50,) * 40)
    everything = (
        found.novelty_weights.sum() + found.cell_weights.sum() + (MAX_SEGMENTS + 1) * found.segment_weights.sum()
    )
    assert everything == pytest.approx(1.0)


@pytest.mark.parametrize(("n_cal", "cells"), [(0, (0,)), (0, (0, 0)), (3, (3,)), (3, (1, 2))])
def test_without_calibration_there_is_no_bet(n_cal: int, cells: tuple[int, ...]) -> None:
    found = bets(n_cal, cells)
    if not n_cal:
        assert not found.novelty.any()
        assert not found.inside.any()
    assert np.isfinite(found.inside).all()
    assert np.isfinite(found.outside).all()
