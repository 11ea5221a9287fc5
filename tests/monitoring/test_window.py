"""Windows add up: any split of a stream, in any order, over any number of replicas, gives the same counts."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.errors import ReferenceMismatch, StateRefused
from monitoring.evaluate import MonitorSettings, evaluate
from monitoring.reference import Reference
from monitoring.window import Window

EDGES = st.lists(st.integers(0, 60), min_size=0, max_size=4)


def windows(reference: Reference, seed: int, sizes: list[int]) -> list[Window]:
    x = np.random.default_rng(seed).normal(size=(sum(sizes), reference.dimension))
    scored = reference.score(x / np.linalg.norm(x, axis=1, keepdims=True)) if len(x) else reference.score(x)
    cuts = np.cumsum([0, *sizes]).tolist()
    return [Window.of(reference, scored.part(a, b)) for a, b in pairwise(cuts)]


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
    other = Window("0" * 64, *[getattr(window, f) for f in ("n", "novel", "cells", "novel_cells", "p_values")])
    with pytest.raises(ReferenceMismatch, match="made against reference 000000000000"):
        window + other
    with pytest.raises(ReferenceMismatch):
        evaluate(other, small_reference, MonitorSettings())


@pytest.mark.parametrize(
    "damage",
    [{"n": 11}, {"novel": -1}, {"cells": [10]}, {"p_values": [10]}, {"cells": None}, {"n": "many"}, {"cells": ["x"]}],
)
def test_damaged_windows_are_refused(small_reference: Reference, damage: dict[str, object]) -> None:
    (window,) = windows(small_reference, 0, [10])
    with pytest.raises(StateRefused):
        Window.from_json({**window.to_json(), **damage})
    with pytest.raises(StateRefused):
        Window.from_json({})
