"""Disagreement of two versions against a plain reference, and counts that add up exactly."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitoring import disagreement
from monitoring.disagreement import Comparer
from monitoring.errors import StateRefused, VectorsRefused
from monitoring.reference import Reference
from monitoring.tally import UNIT, Tally
from monitoring.window import P_VALUE_EDGES
from tests.monitoring.conftest import DIMENSION, draw

ONE = {"name": "support", "revision": 1, "digest": "a" * 64}
OTHER = {"name": "support", "revision": 2, "digest": "b" * 64}


def turned(x: NDArray[np.float32], seed: int, by: float) -> NDArray[np.float32]:
    """The vectors as another version gives them: moved by a fixed matrix."""
    moved = x + by * x @ np.random.default_rng(seed).normal(size=(DIMENSION, DIMENSION)) / np.sqrt(DIMENSION)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def picture(
    rows: NDArray[np.float32], ids: list[int], dataset: dict[str, object] | None = None, labelled: bool = True
) -> Reference:
    return Reference.build(
        fit=rows,
        fit_ids=ids,
        fit_labels=[f"label-{i % 7}" for i in ids] if labelled else None,
        calibration=draw(np.random.default_rng(3), 200),
        replay=[],
        version_info={} if dataset is None else {"dataset": dataset},
    )


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return draw(np.random.default_rng(1), 400)


def nearest(reference: Reference, x: NDArray[np.float32], allowed: set[str]) -> list[list[str]]:
    kept = [i for i, name in enumerate(reference.fit_ids) if name in allowed]
    order = np.argsort(-(x @ reference.fit[kept].T), axis=1, kind="stable")[:, :10]
    return [[reference.fit_ids[kept[i]] for i in row] for row in order]


@pytest.mark.parametrize("part", [400, 250])
def test_neighbours_are_compared_as_a_plain_reference_does(rows: NDArray[np.float32], part: int) -> None:
    """Rows of the same data, all of them or those that both have, in another order, under vectors of each version."""
    order = np.random.default_rng(2).permutation(400)[:part]
    live = picture(rows, list(range(400)), ONE)
    candidate = picture(turned(rows, 5, 0.5)[order], order.tolist(), ONE)
    x = draw(np.random.default_rng(8), 40)
    y = turned(x, 5, 0.5)
    comparer = Comparer(live, candidate)
    assert (comparer.rows, comparer.labels) == (True, True)
    sizes = [1] * 10 + [5, 25]
    found = comparer.compare(x, y, sizes)

    common = set(candidate.fit_ids)
    pairs = zip(nearest(live, x, common), nearest(candidate, y, common), strict=True)
    expected = [1 - len(set(a) & set(b)) / 10 for a, b in pairs]
    own = [nearest(r, v, set(r.fit_ids)) for r, v in ((live, x), (candidate, y))]
    labels = [[[f"label-{int(i) % 7}" for i in row] for row in side] for side in own]
    multiset = [1 - (Counter(a) & Counter(b)).total() / 10 for a, b in zip(*labels, strict=True)]
    votes = [Counter(a).most_common(1)[0][0] != Counter(b).most_common(1)[0][0] for a, b in zip(*labels, strict=True)]
    cuts = np.cumsum([0, *sizes])
    for name, per_text in (("rows", expected), ("labels", multiset), ("votes", votes)):
        means = [np.mean(per_text[a:b]) for a, b in pairwise(cuts)]
        assert getattr(found, f"{name}_n") == len(sizes)
        assert getattr(found, name) == pytest.approx(sum(means) * UNIT, abs=len(sizes))
    assert 0 < found.rows < len(sizes) * UNIT
    assert found.texts == sum(found.p_live) == sum(found.p_candidate) == 40
    assert found.score_live == pytest.approx((x @ live.fit.T).max(axis=1).sum() * UNIT, abs=100)
    edges = np.searchsorted(P_VALUE_EDGES, candidate.novelty(y), side="left")
    assert list(found.p_candidate) == np.bincount(edges, minlength=len(P_VALUE_EDGES)).tolist()


def test_a_version_agrees_with_itself_and_a_stranger_does_not(rows: NDArray[np.float32]) -> None:
    live = picture(rows, list(range(400)), ONE)
    x = draw(np.random.default_rng(8), 30)
    same = Comparer(live, live).compare(x, x, [1] * 30)
    assert (same.rows, same.labels, same.votes) == (0, 0, 0)
    stranger = picture(np.roll(rows, 7, axis=0), list(range(400)), ONE)
    apart = Comparer(live, stranger).compare(x, x, [1] * 30)
    assert apart.rows > 0.9 * 30 * UNIT


def test_rows_of_other_data_are_never_taken_for_the_same(rows: NDArray[np.float32]) -> None:
    live = picture(rows, list(range(400)), ONE)
    by_label = Comparer(live, picture(rows, list(range(400)), OTHER))
    assert (by_label.rows, by_label.labels) == (False, True)
    assert by_label.compare(rows[:5], rows[:5], [5]).rows_n == 0
    for dataset, count in ((None, 400), (ONE, 99)):
        few = picture(rows[:count], list(range(count)), dataset, labelled=False)
        assert not Comparer(live, few).rows
    nothing = Comparer(live, picture(rows, list(range(400)), OTHER, labelled=False))
    found = nothing.compare(rows[:5], rows[:5], [5])
    assert (nothing.rows, nothing.labels) == (False, False)
    assert (found.rows_n, found.labels_n, found.votes_n, found.texts) == (0, 0, 0, 5)


def test_many_common_rows_are_sampled(rows: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disagreement, "MAX_COMMON", 120)
    live, candidate = picture(rows, list(range(400)), ONE), picture(rows[:350], list(range(350)), ONE)
    assert Comparer(live, candidate).compare(rows[:9], rows[:9], [9]).rows == 0


def test_bad_shapes_are_refused(rows: NDArray[np.float32]) -> None:
    live = picture(rows, list(range(400)), ONE)
    comparer = Comparer(live, live)
    for x, y, sizes in ((rows[:3], rows[:2], [3]), (rows[:3], rows[:3], [2]), (rows[:3], rows[:3], [3, 0])):
        with pytest.raises(VectorsRefused):
            comparer.compare(x, y, sizes)
    with pytest.raises(VectorsRefused):
        comparer.compare(rows[:3, :5], rows[:3], [3])


COUNTS = st.builds(
    lambda n, share, p: Tally(
        observations=n, rows_n=n, rows=round(n * share * UNIT), attempts=n, failures=n // 3, p_live=tuple(p)
    ),
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.lists(st.integers(0, 10**6), min_size=len(P_VALUE_EDGES), max_size=len(P_VALUE_EDGES)),
)


@given(COUNTS, COUNTS, COUNTS)
def test_tallies_add_up_in_any_order_and_survive_storage(a: Tally, b: Tally, c: Tally) -> None:
    assert (a + b) + c == c + (b + a)
    assert a + Tally() == a
    assert Tally.from_json(json.loads(json.dumps((a + b).to_json()))) == a + b


@pytest.mark.parametrize(
    "damage",
    [
        {"observations": -1},
        {"observations": 1.5},
        {"observations": True},
        {"p_live": [1, 2]},
        {"p_live": 3},
        {"rows": 5 * UNIT},
        {"failures": 1},
        {"slow": 1},
        {"votes": "many"},
    ],
)
def test_a_damaged_tally_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(StateRefused):
        Tally.from_json(Tally(rows_n=4).to_json() | damage)


def test_a_tally_of_before_a_field_was_there_is_read() -> None:
    stored = Tally(observations=3).to_json()
    del stored["served"]
    assert Tally.from_json(stored) == Tally(observations=3)
