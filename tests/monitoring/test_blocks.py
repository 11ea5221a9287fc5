"""Blocks of recent counts: few whatever was observed, and "since then" counts what came since, about."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.blocks import BLOCK, KEPT, Recent
from monitoring.errors import StateRefused
from monitoring.reference import Reference
from monitoring.window import P_VALUE_EDGES, SegmentCounts, Window


def batch(reference: Reference, n: int) -> Window:
    k, bins = len(reference.cells), len(P_VALUE_EDGES)
    p_values = (n, *(0,) * (bins - 1))
    segments = {"mobile": SegmentCounts(n // 2, n // 4, (n // 2, *(0,) * (bins - 1)))}
    return Window(reference.digest, n, n, (n, *(0,) * (k - 1)), (n, *(0,) * (k - 1)), p_values, (), segments)


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=60), asked=st.floats(0, 1))
def test_what_came_since_is_counted(small_reference: Reference, sizes: list[int], asked: float) -> None:
    recent, before = Recent(small_reference), 0
    for n in sizes:
        recent.add(batch(small_reference, n), before)
        before += n
    assert len(recent.to_json()) <= 24
    since = int(asked * before)
    found = recent.since(since)
    assert found.window.n == before - found.begin
    # All that is counted came since, unless it is the newest block alone; and little that came since is left out.
    newest = next(recent.suffixes())
    assert found.begin >= since or found.window.n == newest.window.n
    assert before - since >= KEPT or found.begin - since <= max(found.window.n, BLOCK + max(sizes))
    if before < KEPT:  # nothing was old enough to go
        assert list(recent.suffixes())[-1].window.n == before


def test_segments_and_state_are_kept_and_old_blocks_go(small_reference: Reference) -> None:
    recent = Recent(small_reference)
    for i in range(2000):
        recent.add(batch(small_reference, 64), 64 * i)
    whole = list(recent.suffixes())[-1]
    assert whole.begin + whole.window.n == 128_000
    assert KEPT <= whole.window.n <= 2 * KEPT
    assert len(recent.to_json()) <= 24
    assert whole.segments == {"mobile": (whole.window.n // 2, whole.window.n // 4)}
    again = Recent(small_reference)
    again.read(json.loads(json.dumps(recent.to_json())))
    assert again.to_json() == recent.to_json()
    assert again.since(127_000) == recent.since(127_000)
    recent.clear()
    assert recent.since(0).window.n == 0
    assert list(recent.suffixes()) == []


@pytest.mark.parametrize("bad", [3, [3], [[0, [1], [1], [1]]], [[0, [1], [0], [1] + [0] * 8, {}]], "x"])
def test_damaged_blocks_are_refused(small_reference: Reference, bad: object) -> None:
    with pytest.raises(StateRefused):
        Recent(small_reference).read(bad)
