"""Evidence: the plain recursion in logs, exact state, fair places for segments, and where a change is said to begin."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from monitoring.bets import MAX_SEGMENTS, bets
from monitoring.errors import StateRefused
from monitoring.evidence import OTHER, Evidence
from monitoring.window import P_VALUE_EDGES, SegmentCounts, Window

CELLS = (30, 50, 20)
BETS = bets(100, CELLS)
BINS = len(P_VALUE_EDGES)


def batch(rng: np.random.Generator, n: int, low: float = 0.02, segments: tuple[str, ...] = ()) -> Window:
    """n observations, a share `low` of which has the smallest p-values; each segment holds all of them again."""
    law = np.array([0.0] * 3 + [low] + [(1 - low) / (BINS - 4)] * (BINS - 4))
    p_values = tuple(rng.multinomial(n, law).tolist())
    cells = tuple(rng.multinomial(n, np.array(CELLS) / 100).tolist())
    return Window("r", n, 0, cells, (0,) * 3, p_values, (), {s: SegmentCounts(n, 0, p_values) for s in segments})


def plain(factors: NDArray[np.float64], sizes: list[int]) -> float:
    """R of one bet by its definition, not in logs."""
    r = 0.0
    for factor, n in zip(factors, sizes, strict=True):
        r = factor * (r + n)
    return r


def test_the_sum_is_the_weighted_sum_of_plain_shiryaev_roberts() -> None:
    rng = np.random.default_rng(0)
    batches = [batch(rng, int(n), low=0.1) for n in rng.integers(1, 30, 40)]
    evidence = Evidence(BETS)
    for i, one in enumerate(batches):
        evidence.add(one, i)
    sizes = [one.n for one in batches]
    p_values, cells = np.array([b.p_values for b in batches]), np.array([b.cells for b in batches])
    total = sum(
        weight * plain(np.exp(p_values @ row), sizes)
        for weight, row in zip(BETS.novelty_weights, BETS.novelty, strict=True)
    )
    for j in range(3):
        for f in range(BETS.inside.shape[1]):
            logs = cells[:, j] * BETS.inside[j, f] + (np.array(sizes) - cells[:, j]) * BETS.outside[j, f]
            total += BETS.cell_weights[j, f] * plain(np.exp(logs), sizes)
    assert evidence.log_total == pytest.approx(np.log(total), abs=1e-4)
    assert evidence.log_total <= np.log(total) + 1e-9  # rounded down, never up


def test_the_expected_evidence_without_change_is_at_most_the_observations() -> None:
    """R - n is a supermartingale: over 4,000 streams of 30 observations at the very bounds, the mean R is below 30."""
    rng = np.random.default_rng(1)
    law = np.diff(np.append(np.cumsum(batch_law()), 1.0), prepend=0.0)
    totals = []
    for _ in range(4000):
        evidence = Evidence(BETS)
        for i in range(3):
            p_values = tuple(rng.multinomial(10, law).tolist())
            cells = tuple(rng.multinomial(10, np.array(CELLS) / 100).tolist())
            evidence.add(Window("r", 10, 0, cells, (0,) * 3, p_values), 10 * i)
        totals.append(np.exp(evidence.log_total))
    assert np.mean(totals) <= 30 + 3 * np.std(totals) / np.sqrt(len(totals))


def batch_law() -> NDArray[np.float64]:
    """Chances of all p-value bins but the last, each edge's at its upper bound."""
    from monitoring.bets import novelty_bounds

    used, bounds = novelty_bounds(100)
    at_edges = np.zeros(BINS - 1)
    for i in range(BINS - 1):
        below = [k for k, edge in enumerate(used) if edge <= i]
        at_edges[i] = bounds[below[-1]] if below else 0.0
    return np.diff(at_edges, prepend=0.0)


def test_the_begin_of_a_change_is_estimated() -> None:
    rng = np.random.default_rng(2)
    evidence, n = Evidence(BETS), 0
    for low in [0.02] * 100 + [0.5] * 10:
        evidence.add(batch(rng, 16, low), n)
        n += 16
    novelty = next(part for part in evidence.parts() if part.kind == "novelty")
    assert abs(novelty.begin - 1600) <= 32
    assert novelty.log > 10


def test_the_state_goes_to_json_and_back_exactly() -> None:
    rng = np.random.default_rng(3)
    evidence, again = Evidence(BETS), Evidence(BETS)
    for i in range(50):
        one = batch(rng, 20, 0.1, ("mobile", "web"))
        evidence.add(one, 20 * i)
        again.add(one, 20 * i)
        fresh = Evidence(BETS)
        fresh.read(json.loads(json.dumps(again.to_json(), allow_nan=False)))
        again = fresh
    assert again.to_json() == evidence.to_json()
    assert again.log_total == evidence.log_total
    state = evidence.to_json()
    for bad in (
        {},
        {**state, "cells": state["novelty"]},
        {**state, "novelty": "x"},
        {**state, "segments": {"a": [[0.0]]}},
        {**state, "novelty": [[float("nan")] * len(state["novelty"][0])] * 3},
    ):
        with pytest.raises(StateRefused):
            Evidence(BETS).read(bad)


def test_late_segments_weigh_as_much_as_early_ones_and_the_last_share_a_place() -> None:
    rng = np.random.default_rng(4)
    evidence = Evidence(BETS)
    for i in range(MAX_SEGMENTS + 3):
        evidence.add(evidence.placed(batch(rng, 5, segments=(f"segment {i}",))), 5 * i)
    segments = [part for part in evidence.parts() if part.kind == "segment"]
    assert len(segments) == MAX_SEGMENTS + 1
    assert {part.weight for part in segments} == {segments[0].weight}
    assert [part.segment for part in segments][-1] == OTHER
    late = batch(rng, 5, segments=("a", "b"))
    assert evidence.placed(late).segments == {OTHER: late.segments["a"] + late.segments["b"]}
    known = batch(rng, 5, segments=("segment 3", OTHER))
    assert set(evidence.placed(known).segments) == {"segment 3", OTHER}


def test_a_batch_of_nothing_changes_nothing_and_a_reset_forgets() -> None:
    rng = np.random.default_rng(5)
    evidence = Evidence(BETS)
    evidence.add(batch(rng, 40, 0.5), 0)
    before = evidence.to_json()
    evidence.add(batch(rng, 0), 40)
    assert evidence.to_json() == before
    evidence.reset(40)
    assert evidence.log_total < -600
    assert next(iter(evidence.parts())).begin == 40
