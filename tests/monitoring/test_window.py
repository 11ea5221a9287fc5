"""Windows add up: any split of a stream, in any order, over any number of replicas, gives the same counts."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.errors import ReferenceMismatch, StateRefused, VectorsRefused
from monitoring.evaluate import MonitorSettings, evaluate
from monitoring.reference import Reference
from monitoring.window import Window

EDGES = st.lists(st.integers(0, 60), min_size=0, max_size=4)


def windows(reference: Reference, seed: int, sizes: list[int]) -> list[Window]:
    """Windows of these sizes, with features, every vector in one of two segments or in none."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), reference.dimension))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True) if len(x) else x
    scored = reference.score(unit, features=np.arange(len(x)))
    segments = rng.choice(np.array(["mobile", "web", None], dtype=object), len(x)).tolist()
    cuts = np.cumsum([0, *sizes]).tolist()
    return [Window.of(reference, scored.part(a, b), segments[a:b]) for a, b in pairwise(cuts)]


@given(seed=st.integers(0, 2**32 - 1), sizes=EDGES)
def test_merging_is_counting_the_concatenation(small_reference: Reference, seed: int, sizes: list[int]) -> None:
    parts = windows(small_reference, seed, sizes)
    (whole,) = windows(small_reference, seed, [sum(sizes)])
    assert sum(parts, Window.empty(small_reference)) == whole


@given(seed=st.integers(0, 2**32 - 1), sizes=st.tuples(*[st.integers(0, 40)] * 3))
def test_merging_is_associative_and_commutative_with_an_identity(
    small_reference: Reference, seed: int, sizes: tuple[int, int, int]
) -> None:
    a, b, c = windows(small_reference, seed, list(sizes))
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Window.empty(small_reference) == a


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 80))
def test_json_and_back_is_the_same_window(small_reference: Reference, seed: int, size: int) -> None:
    (window,) = windows(small_reference, seed, [size])
    assert Window.from_json(json.loads(json.dumps(window.to_json()))) == window


def test_windows_of_two_references_are_not_added(small_reference: Reference) -> None:
    (window,) = windows(small_reference, 0, [10])
    other = replace(window, reference="0" * 64)
    with pytest.raises(ReferenceMismatch, match="made against reference 000000000000"):
        window + other
    with pytest.raises(ReferenceMismatch):
        evaluate(other, small_reference, MonitorSettings())


def test_segments_are_counted_apart_and_within_the_whole(small_reference: Reference) -> None:
    (window,) = windows(small_reference, 1, [90])
    assert set(window.segments) == {"mobile", "web"}
    assert sum(s.n for s in window.segments.values()) < window.n == 90
    for counts in window.segments.values():
        assert sum(counts.p_values) == counts.n
        assert counts.novel <= window.novel
    scored = small_reference.score(np.eye(small_reference.dimension, dtype=np.float32)[:3])
    mobile = Window.of(small_reference, scored, ["mobile"] * 3)
    assert mobile.segments["mobile"].p_values == mobile.p_values
    assert Window.of(small_reference, scored, [None] * 3) == Window.of(small_reference, scored)
    with pytest.raises(VectorsRefused):
        Window.of(small_reference, scored, ["mobile"])


def test_features_are_sums_and_are_dropped_where_a_part_lacks_them(small_reference: Reference) -> None:
    whole, other = windows(small_reference, 2, [30, 20])
    assert small_reference.features is not None
    assert len(whole.features) == small_reference.features.size
    assert (whole + other).features == tuple(a + b for a, b in zip(whole.features, other.features, strict=True))
    without = replace(other, features=())
    assert (whole + without).features == (without + whole).features == ()
    assert (whole + Window.empty(small_reference)).features == whole.features


def test_a_window_of_an_older_release_is_read(small_reference: Reference) -> None:
    (window,) = windows(small_reference, 3, [10])
    kept = {k: v for k, v in window.to_json().items() if k not in ("features", "segments")}
    assert Window.from_json(kept) == replace(window, features=(), segments={})


@pytest.mark.parametrize(
    "damage",
    [
        {"n": 11},
        {"novel": -1},
        {"cells": [10]},
        {"p_values": [10]},
        {"cells": None},
        {"n": "many"},
        {"cells": ["x"]},
        {"segments": {"a": [3, 0, 3]}},
        {"segments": {"a": [11, 0, 11, *(0,) * 8]}},
        {"segments": []},
        {"segments": {"a": [2, 3, 2, *(0,) * 8]}},
        {"segments": {"a": []}},
        {"features": ["x"]},
    ],
)
def test_damaged_windows_are_refused(small_reference: Reference, damage: dict[str, object]) -> None:
    (window,) = windows(small_reference, 0, [10])
    with pytest.raises(StateRefused):
        Window.from_json({**window.to_json(), **damage})
    with pytest.raises(StateRefused):
        Window.from_json({})
