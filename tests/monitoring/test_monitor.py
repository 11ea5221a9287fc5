"""The monitor's state: the same judgement whatever the batches and replicas, a latched alarm, restarts that lose
nothing, and batches that count once.
"""

import json
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitoring.alarms import Confirmation
from monitoring.errors import ReferenceMismatch, StateRefused, VectorsRefused
from monitoring.metrics import Metrics
from monitoring.monitor import MAX_REPLICAS, UNEXPLAINED, Alarm, Monitor, MonitorSettings
from monitoring.reference import Reference
from monitoring.window import Window

Draw = Callable[..., NDArray[np.float32]]


def through_json(monitor: Monitor) -> Monitor:
    """The monitor as another replica finds it."""
    state = json.loads(json.dumps(monitor.to_json(), allow_nan=False))
    return Monitor(monitor.reference, monitor.settings, state)


def batches(reference: Reference, x: NDArray[np.float32], size: int) -> list[Window]:
    parts = [x[i : i + size] for i in range(0, len(x), size)]
    return [Window.of(reference, reference.score(part)) for part in parts]


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 700), max_size=6))
def test_windows_do_not_depend_on_the_batches(small_reference: Reference, make_vectors: Draw, cuts: list[int]) -> None:
    x = make_vectors(np.random.default_rng(0), 700, foreign=0.05)
    simple = MonitorSettings(mode="windows")
    whole = Monitor(small_reference, simple)
    expected = [r.to_json() for r in whole.observe(x).readings]
    monitor, found = Monitor(small_reference, simple), []
    for part in np.split(x, sorted(cuts)):
        # Every batch is followed by a restart.
        found += [r.to_json() for r in monitor.observe(part).readings]
        monitor = through_json(monitor)
    assert [f["number"] for f in found] == [1, 2]
    # Rows near a boundary may score a last bit differently in another batch shape; counts of a window stay.
    assert [f["n"] for f in found] == [e["n"] for e in expected]
    assert [f["alarm"] for f in found] == [e["alarm"] for e in expected]
    assert np.abs(np.array(found[0]["window"]["cells"]) - np.array(expected[0]["window"]["cells"])).sum() <= 2
    assert monitor.pending.n == whole.pending.n == 700 - 512


def alarm_at(reference: Reference, stream: Sequence[Window], restart: bool = False) -> int | None:
    """How many observations a monitor had counted when it alarmed."""
    monitor = Monitor(reference, MonitorSettings(arl=10_000))
    for i, one in enumerate(stream):
        done = monitor.apply(one, f"replica {i % 3}", i // 3)
        if done.raised:
            return monitor.observations
        if restart:
            monitor = through_json(monitor)
    return None


def test_three_replicas_with_a_third_each_decide_as_one(small_reference: Reference, make_vectors: Draw) -> None:
    """Batches of three replicas arrive in any order within their turn, through a state that is stored after each."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = np.concatenate([make_vectors(rng, 480), make_vectors(rng, 480, foreign=0.3)])
        one = batches(small_reference, x, 16)
        alone = alarm_at(small_reference, one)
        assert alone is not None
        assert 480 < alone <= 640
        for order in permutations(range(3)):
            turns = [one[i + j] for i in range(0, len(one), 3) for j in order]
            assert abs((alarm_at(small_reference, turns, restart=True) or 10**6) - alone) <= 3 * 16


def test_counts_do_not_depend_on_batches_or_their_order(small_reference: Reference, make_vectors: Draw) -> None:
    rng = np.random.default_rng(8)
    x = make_vectors(rng, 240, foreign=0.1)
    parts = batches(small_reference, x, 16)
    forward, backward = Monitor(small_reference), Monitor(small_reference)
    for i, one in enumerate(parts):
        forward.apply(one, "a", i)
    for i, one in enumerate(reversed(parts)):
        backward.apply(one, "b", i)
    merged = Monitor(small_reference)
    merged.apply(sum(parts, Window.empty(small_reference)))
    assert forward.pending == backward.pending == merged.pending
    assert forward.observations == backward.observations == merged.observations == 240


def test_the_size_of_batches_changes_a_decision_by_at_most_one_batch(
    small_reference: Reference, make_vectors: Draw
) -> None:
    later = []
    for seed in range(10):
        rng = np.random.default_rng(100 + seed)
        x = np.concatenate([make_vectors(rng, 512), make_vectors(rng, 1024, foreign=0.2)])
        small = batches(small_reference, x, 8)
        large = [sum(small[i + 1 : i + 8], small[i]) for i in range(0, len(small), 8)]
        soon, late = alarm_at(small_reference, small), alarm_at(small_reference, large)
        assert soon is not None
        assert late is not None
        later.append(late - soon)
    assert max(map(abs, later)) <= 64


def test_a_batch_counts_once_whoever_sends_it_again(small_reference: Reference, make_vectors: Draw) -> None:
    rng = np.random.default_rng(9)
    first, second = batches(small_reference, make_vectors(rng, 64, foreign=0.2), 32)
    monitor = Monitor(small_reference)
    assert not monitor.apply(first, "a", 7, observed=50).duplicate
    before = monitor.to_json()
    monitor = through_json(monitor)
    assert monitor.apply(first, "a", 7, observed=50).duplicate
    assert monitor.apply(second, "a", 6).duplicate
    assert monitor.to_json() == before
    assert not monitor.apply(second, "b", 7).duplicate
    assert not monitor.apply(first, "a", 8).duplicate
    assert (monitor.observations, monitor.evidence) == (50 + 32 + 32, 96)
    assert monitor.applied == {"b": 7, "a": 8}
    for i in range(MAX_REPLICAS):
        monitor.apply(Window.empty(small_reference), f"replica {i}", 0)
    assert len(monitor.applied) == MAX_REPLICAS
    assert "a" not in monitor.applied


def test_a_batch_against_another_reference_is_refused(
    small_reference: Reference, make_reference: Callable[..., Reference]
) -> None:
    other = make_reference(np.random.default_rng(77), n_fit=100, n_cal=60)
    with pytest.raises(ReferenceMismatch):
        Monitor(small_reference).apply(Window.empty(other))


@pytest.mark.parametrize("mode", ["sequential", "windows"])
def test_the_alarm_latches_until_acknowledged_and_may_return(
    small_reference: Reference, make_vectors: Draw, mode: str
) -> None:
    rng = np.random.default_rng(1)
    monitor = Monitor(small_reference, MonitorSettings(mode=mode))  # type: ignore[arg-type]
    assert not monitor.observe(make_vectors(rng, 256)).raised
    assert monitor.observe(make_vectors(rng, 256, foreign=0.5)).raised
    first = monitor.alarm
    assert first is not None
    assert "novelty" in first.statistics
    assert first.detectors[0].detector == "novelty"
    assert first.observation == 512 if mode == "windows" else 256 < first.observation <= 320
    assert abs(first.change_observation - 256) <= 16
    assert first.actionable
    assert first.effects["novelty_ratio"].low > 10
    assert sum(m["novel"] for m in first.moved) > 15
    assert not monitor.observe(make_vectors(rng, 512)).raised
    assert monitor.alarm is not None
    assert monitor.alarm.observation == first.observation
    assert monitor.alarm.effects["novelty_ratio"].value < first.effects["novelty_ratio"].value
    assert through_json(monitor).alarm == monitor.alarm
    released = monitor.acknowledge()
    assert released is not None
    assert released.change_observation == first.change_observation
    assert not monitor.alarm_active
    assert monitor.evidence_log()["total"][0] < -600
    assert not monitor.observe(make_vectors(rng, 256)).raised
    assert monitor.observe(make_vectors(rng, 256, foreign=0.5)).raised


def test_a_latched_alarm_stops_calling_for_action_when_the_shift_is_over(
    small_reference: Reference, make_vectors: Draw
) -> None:
    rng = np.random.default_rng(12)
    monitor = Monitor(small_reference)
    monitor.observe(make_vectors(rng, 64, foreign=0.6))
    assert monitor.alarm is not None
    assert monitor.alarm.actionable
    for _ in range(12):
        monitor.observe(make_vectors(rng, 1024))
    assert monitor.alarm.effects["novelty_ratio"].n > 10_000
    assert not monitor.alarm.actionable
    monitor.confirm(Confirmation(0.55, 0.5, 0.6, 0.2))
    assert not monitor.alarm.actionable
    monitor.confirm(Confirmation(0.8, 0.7, 0.9, 0.001))
    assert monitor.alarm.actionable
    assert through_json(monitor).alarm == monitor.alarm
    Monitor(small_reference).confirm(Confirmation(0.8, 0.7, 0.9, 0.001))  # nothing to confirm


def test_a_grown_neighbourhood_is_named_first(small_reference: Reference, make_vectors: Draw) -> None:
    """One of twelve topics makes up a quarter of the traffic instead of a twelfth."""
    rng, named = np.random.default_rng(13), []
    for topic in range(12):
        cells = np.bincount(small_reference.assign(make_vectors(rng, 200, topics=np.array([topic]))))
        monitor = Monitor(small_reference, MonitorSettings(arl=10_000))
        for _ in range(100):
            mixed = np.concatenate([make_vectors(rng, 26), make_vectors(rng, 6, topics=np.array([topic]))])
            if monitor.observe(mixed).raised:
                break
        assert monitor.alarm is not None
        assert monitor.alarm.statistics[0] == "occupancy"
        first = monitor.alarm.detectors[0]
        # A topic may be spread over several neighbourhoods; each of them has grown.
        named.append(first.cell is not None and bool(cells[first.cell] >= 20))
        assert first.cell is None or first.label == small_reference.cells[first.cell].label
        assert int(cells.argmax()) in {m["cell"] for m in monitor.alarm.moved}
    assert sum(named) >= 11, named


def test_a_segment_that_changed_is_named_and_judged_by_its_own_traffic(
    small_reference: Reference, make_vectors: Draw
) -> None:
    rng, monitor = np.random.default_rng(14), Monitor(small_reference, MonitorSettings(arl=10_000))
    for _ in range(200):
        # A hundredth of all traffic, and a third of one small segment, is foreign.
        x = np.concatenate([make_vectors(rng, 62), make_vectors(rng, 2, foreign=0.35)])
        if monitor.observe(x, segments=["web"] * 31 + [None] * 31 + ["mobile"] * 2).raised:
            break
    assert monitor.alarm is not None
    assert monitor.alarm.detectors[0].segment == monitor.alarm.segment == "mobile"
    assert monitor.alarm.statistics[0] == "novelty"
    assert monitor.alarm.actionable
    assert monitor.alarm.effects["novelty_ratio"].n < monitor.since(monitor.alarm.change_observation).n / 8
    assert "segment:mobile" in monitor.evidence_log()
    assert through_json(monitor).to_json() == monitor.to_json()


def test_the_evidence_of_each_detector_stands_beside_the_line_it_would_cross_alone(
    small_reference: Reference, make_vectors: Draw
) -> None:
    monitor = Monitor(small_reference)
    monitor.observe(make_vectors(np.random.default_rng(15), 64), segments=["web"] * 64)
    found = monitor.evidence_log()
    cells = {f"cell:{c.index}" for c in small_reference.cells}
    assert set(found) == {"total", "novelty", "segment:web", *cells}
    assert found["total"][1] == pytest.approx(np.log(1_000_000 / 0.7))
    assert all(line > found["total"][1] for name, (_, line) in found.items() if name != "total")
    assert set(monitor.occupancy()) == {"occupancy_fast", "occupancy_slow"}
    monitor.observe(make_vectors(np.random.default_rng(16), 40, foreign=1.0))
    found = monitor.evidence_log()
    assert found["novelty"][0] > found["novelty"][1]


@pytest.mark.parametrize("mask", [True, False])
def test_all_are_counted_and_only_the_evidence_is_judged(
    small_reference: Reference, make_vectors: Draw, mask: bool
) -> None:
    rng = np.random.default_rng(5)
    metrics = Metrics()
    monitor = Monitor(small_reference, recorder=metrics.drift("banking", "1", small_reference))
    x = make_vectors(rng, 1000, foreign=1.0)
    x[::4] = make_vectors(rng, 250)
    rows = np.arange(0, 1000, 4)
    chosen = np.isin(np.arange(1000), rows) if mask else rows
    assert monitor.observe(x, chosen).readings == ()
    assert (monitor.observations, monitor.evidence, monitor.pending.n) == (1000, 250, 250)
    value = metrics.registry.get_sample_value
    assert value("driftline_drift_observations_total", {"adapter": "banking", "segment": ""}) == 1000
    assert value("driftline_drift_evidence_total", {"adapter": "banking"}) == 250
    assert value("driftline_drift_novelty_pvalue_count", {"adapter": "banking", "segment": ""}) == 1000
    assert (value("driftline_drift_novel_observations_total", {"adapter": "banking", "segment": ""}) or 0) > 500
    (reading,) = monitor.observe(x[:40], rows[:10]).readings
    assert reading.window.cells == Window.of(small_reference, small_reference.score(x[rows[np.r_[:250, :6]]])).cells
    assert not monitor.alarm_active
    resumed = Monitor(small_reference, state=json.loads(json.dumps(monitor.to_json())))
    assert (resumed.observations, resumed.evidence) == (1040, 260)
    assert monitor.observe(x[:5], []).readings == ()
    assert (monitor.observations, monitor.evidence) == (1045, 260)
    with pytest.raises(VectorsRefused):
        monitor.observe(x[:5], np.ones(4, dtype=bool))
    with pytest.raises(VectorsRefused):
        monitor.observe(x[:5], segments=["a"])


def test_a_smaller_window_after_a_restart_counts_no_vector_twice(
    small_reference: Reference, make_vectors: Draw
) -> None:
    x = make_vectors(np.random.default_rng(4), 300)
    before = Monitor(small_reference, MonitorSettings(window=256))
    before.observe(x[:200])
    after = Monitor(small_reference, MonitorSettings(window=64), json.loads(json.dumps(before.to_json())))
    readings = after.observe(x[200:]).readings
    assert [r.n for r in readings] == [200, 64]
    assert readings[0].window == before.pending
    assert (after.pending.n, after.observations, after.evidence) == (36, 300, 300)


def test_an_alarm_raised_elsewhere_is_taken_over_once(small_reference: Reference) -> None:
    metrics = Metrics()
    monitor = Monitor(small_reference, recorder=metrics.drift("banking", "1", small_reference))
    alarm = Alarm(("novelty",), 3, 700, ({"cell": 1},))
    monitor.latch(Alarm.from_json(json.loads(json.dumps(alarm.to_json()))))
    monitor.latch(UNEXPLAINED)
    assert monitor.alarm == alarm
    assert metrics.registry.get_sample_value("driftline_drift_alarm_active", {"adapter": "banking"}) == 1
    assert monitor.acknowledge() == alarm


def test_a_state_of_another_reference_or_a_damaged_one_is_refused(
    small_reference: Reference, make_reference: Callable[..., Reference]
) -> None:
    state = Monitor(small_reference).to_json()
    other = make_reference(np.random.default_rng(77), n_fit=100, n_cal=60)
    with pytest.raises(ReferenceMismatch):
        Monitor(other, state=state)
    for bad in (
        {},
        {**state, "format": 3},
        {**state, "window": {}},
        {**state, "alarm": {"statistics": []}},
        {**state, "observations": "many"},
        {**state, "alarm": "x"},
        {**state, "sequential": None},
        {**state, "sequential": {**state["sequential"], "recent": [[0, [1], [0], [1]]]}},
        {**state, "sequential": {**state["sequential"], "recent": [[0, [1], [0], [0] * 8 + [1], {}]]}},
        {**state, "applied": []},
        {**state, "window": {**state["window"], "cells": [], "novel_cells": []}},
    ):
        with pytest.raises(StateRefused):
            Monitor(small_reference, state=bad)


def test_refused_vectors_count_nothing(small_reference: Reference) -> None:
    monitor = Monitor(small_reference)
    with pytest.raises(VectorsRefused):
        monitor.observe(np.full((4, 24), np.inf))
    assert monitor.observe(np.zeros((0, 24))).readings == ()
    assert monitor.observations == 0


def test_a_state_of_the_former_format_is_resumed(small_reference: Reference, make_vectors: Draw) -> None:
    monitor = Monitor(small_reference)
    monitor.observe(make_vectors(np.random.default_rng(17), 100))
    state = monitor.to_json()
    kept = {name: state[name] for name in ("reference", "observations", "windows", "alarm")}
    window = {name: state["window"][name] for name in ("reference", "n", "novel", "cells", "novel_cells", "p_values")}
    resumed = Monitor(small_reference, state={**kept, "format": 1, "window": window})
    assert (resumed.observations, resumed.evidence, resumed.pending.n) == (100, 100, 100)
    assert not resumed.observe(make_vectors(np.random.default_rng(18), 256)).raised


def test_the_state_stays_small(small_reference: Reference, make_vectors: Draw) -> None:
    """At most 20 kB a segment, whatever was observed."""
    rng, monitor = np.random.default_rng(19), Monitor(small_reference)
    for i in range(40):
        monitor.observe(make_vectors(rng, 256), segments=[f"segment {i % 5}"] * 256)
    monitor.observe(make_vectors(rng, 64, foreign=1.0))
    assert len(json.dumps(monitor.to_json())) < 5 * 20_000


def test_one_run_length_is_split_over_the_statistics() -> None:
    assert MonitorSettings().level(256) == pytest.approx(256 / 2_000_000)
    assert MonitorSettings().level(256, 3) == pytest.approx(256 / 3_000_000)
    assert MonitorSettings(arl=100_000).level(512) == pytest.approx(512 / 200_000)


@pytest.mark.parametrize(
    "bad",
    [
        {"window": 8}, {"arl": 99}, {"arl": 100, "mode": "windows"}, {"min_tv": 1.0}, {"min_novelty_ratio": 0.5},
        {"min_auc": 0.4}, {"mode": "both"},
    ],
)  # fmt: skip
def test_senseless_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"window|arl|min_|mode"):
        MonitorSettings(**bad)  # type: ignore[arg-type]
