"""The monitor's state: tumbling windows whatever the batches, a latched alarm, restarts that lose nothing."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitoring.errors import ReferenceMismatch, StateRefused, VectorsRefused
from monitoring.metrics import Metrics
from monitoring.monitor import UNEXPLAINED, Alarm, Monitor, MonitorSettings
from monitoring.reference import Reference
from monitoring.window import Window

Draw = Callable[..., NDArray[np.float32]]


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 700), max_size=6))
def test_readings_do_not_depend_on_the_batches(small_reference: Reference, make_vectors: Draw, cuts: list[int]) -> None:
    x = make_vectors(np.random.default_rng(0), 700, foreign=0.05)
    whole = Monitor(small_reference)
    expected = [r.to_json() for r in whole.observe(x)]
    monitor, found = Monitor(small_reference), []
    for part in np.split(x, sorted(cuts)):
        # Every batch is followed by a restart.
        found += [r.to_json() for r in monitor.observe(part)]
        monitor = Monitor(small_reference, state=json.loads(json.dumps(monitor.to_json())))
    assert [f["number"] for f in found] == [1, 2]
    # Rows near a boundary may score a last bit differently in another batch shape; counts of a window stay.
    assert [f["n"] for f in found] == [e["n"] for e in expected]
    assert [f["alarm"] for f in found] == [e["alarm"] for e in expected]
    assert np.abs(np.array(found[0]["window"]["cells"]) - np.array(expected[0]["window"]["cells"])).sum() <= 2
    assert monitor.pending.n == whole.pending.n == 700 - 512


def test_the_alarm_latches_until_acknowledged_and_may_return(small_reference: Reference, make_vectors: Draw) -> None:
    rng = np.random.default_rng(1)
    monitor = Monitor(small_reference)
    monitor.observe(make_vectors(rng, 256))
    assert not monitor.alarm_active
    monitor.observe(make_vectors(rng, 256, foreign=0.5))
    first = monitor.alarm
    assert first is not None
    assert "novelty" in first.statistics
    assert (first.window_number, first.observation) == (2, 512)
    assert first.moved
    assert sum(m["novel"] for m in first.moved) > 50
    monitor.observe(make_vectors(rng, 512))
    assert monitor.alarm == first
    resumed = Monitor(small_reference, state=json.loads(json.dumps(monitor.to_json())))
    assert resumed.alarm is not None
    assert resumed.alarm.to_json() == first.to_json()
    assert monitor.acknowledge() == first
    assert not monitor.alarm_active
    monitor.observe(make_vectors(rng, 256))
    assert not monitor.alarm_active
    monitor.observe(make_vectors(rng, 256, foreign=0.5))
    assert monitor.alarm_active


def test_two_monitors_merge_into_one_judgement(small_reference: Reference, make_vectors: Draw) -> None:
    rng = np.random.default_rng(2)
    parts = [make_vectors(rng, 100, foreign=0.3) for _ in range(3)]
    monitors = [Monitor(small_reference) for _ in parts]
    for monitor, part in zip(monitors, parts, strict=True):
        assert monitor.observe(part) == []
    first = monitors[0]
    assert first.merge(monitors[1]) == []
    (reading,) = first.merge(monitors[2])
    assert reading.n == 300
    assert reading.window == sum(
        (Window.of(small_reference, small_reference.score(part)) for part in parts), Window.empty(small_reference)
    )
    assert first.alarm_active
    assert (first.pending.n, first.observations, first.evidence) == (0, 300, 300)
    quiet = Monitor(small_reference)
    quiet.merge(first)
    assert quiet.alarm == first.alarm


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
    assert monitor.observe(x, chosen) == []
    assert (monitor.observations, monitor.evidence, monitor.pending.n) == (1000, 250, 250)
    value = metrics.registry.get_sample_value
    assert value("driftline_drift_observations_total", {"adapter": "banking"}) == 1000
    assert value("driftline_drift_evidence_total", {"adapter": "banking"}) == 250
    assert value("driftline_drift_novelty_pvalue_count", {"adapter": "banking"}) == 1000
    assert (value("driftline_drift_novel_observations_total", {"adapter": "banking"}) or 0) > 500
    (reading,) = monitor.observe(x[:40], rows[:10])
    assert reading.window == Window.of(small_reference, small_reference.score(x[rows[np.r_[:250, :6]]]))
    assert not monitor.alarm_active
    resumed = Monitor(small_reference, state=json.loads(json.dumps(monitor.to_json())))
    assert (resumed.observations, resumed.evidence) == (1040, 260)
    assert monitor.observe(x[:5], []) == []
    assert (monitor.observations, monitor.evidence) == (1045, 260)
    with pytest.raises(VectorsRefused):
        monitor.observe(x[:5], np.ones(4, dtype=bool))


def test_a_smaller_window_after_a_restart_counts_no_vector_twice(
    small_reference: Reference, make_vectors: Draw
) -> None:
    x = make_vectors(np.random.default_rng(4), 300)
    before = Monitor(small_reference, MonitorSettings(window=256))
    before.observe(x[:200])
    after = Monitor(small_reference, MonitorSettings(window=64), json.loads(json.dumps(before.to_json())))
    readings = after.observe(x[200:])
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
    for bad in (None, {}, [], "x", {**alarm.to_json(), "moved": ["x"]}, {**alarm.to_json(), "observation": "many"}):
        with pytest.raises(StateRefused):
            Alarm.from_json(bad)


def test_a_state_of_another_reference_or_a_damaged_one_is_refused(
    small_reference: Reference, make_reference: Callable[..., Reference]
) -> None:
    state = Monitor(small_reference).to_json()
    other = make_reference(np.random.default_rng(77), n_fit=100, n_cal=60)
    with pytest.raises(ReferenceMismatch):
        Monitor(other, state=state)
    for bad in (
        {},
        {**state, "format": 2},
        {**state, "window": {}},
        {**state, "alarm": {"statistics": []}},
        {**state, "observations": "many"},
        {**state, "alarm": "x"},
        {**state, "window": {**state["window"], "cells": [], "novel_cells": []}},
    ):
        with pytest.raises(StateRefused):
            Monitor(small_reference, state=bad)


def test_refused_vectors_count_nothing(small_reference: Reference) -> None:
    monitor = Monitor(small_reference)
    with pytest.raises(VectorsRefused):
        monitor.observe(np.full((4, 24), np.inf))
    assert monitor.observe(np.zeros((0, 24))) == []
    assert monitor.observations == 0


def test_one_run_length_is_split_over_the_statistics() -> None:
    assert MonitorSettings().level(256) == pytest.approx(256 / 2_000_000)
    assert MonitorSettings(arl=100_000).level(512) == pytest.approx(512 / 200_000)


@pytest.mark.parametrize("bad", [{"window": 8}, {"arl": 100}, {"min_tv": 1.0}, {"min_novelty_ratio": 0.5}])
def test_senseless_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"window|arl|min_"):
        MonitorSettings(**bad)  # type: ignore[arg-type]


def test_metrics_show_what_the_monitor_saw(small_reference: Reference, make_vectors: Draw) -> None:
    metrics = Metrics()
    monitor = Monitor(small_reference, recorder=metrics.drift("banking", "banking@7", small_reference))
    value = metrics.registry.get_sample_value
    one = {"adapter": "banking"}
    assert value("driftline_drift_alarm_active", one) == 0
    readings = monitor.observe(make_vectors(np.random.default_rng(3), 300, foreign=0.4))
    assert value("driftline_drift_observations_total", one) == 300
    cells = [
        value("driftline_drift_cell_observations_total", {**one, "cell": str(c.index)}) for c in small_reference.cells
    ]
    assert sum(c or 0 for c in cells) == 300
    assert value("driftline_drift_novelty_pvalue_count", one) == 300
    # What a dashboard computes from the histogram and the counter is the reading's own rate.
    assert (value("driftline_drift_novel_observations_total", one) or 0) > 80
    assert value("driftline_drift_statistic", {**one, "statistic": "novelty"}) == readings[0].statistic("novelty").value
    assert value("driftline_drift_effect_size", {**one, "measure": "tv_excess"}) is not None
    assert value("driftline_drift_alarms_total", {**one, "statistic": "novelty"}) == 1
    assert value("driftline_drift_alarm_active", one) == 1
    assert (value("driftline_drift_reading_timestamp_seconds", one) or 0) > 1e9
    monitor.acknowledge()
    assert value("driftline_drift_alarm_active", one) == 0
    # A restart with a latched alarm shows it again.
    monitor.observe(make_vectors(np.random.default_rng(3), 256, foreign=0.4))
    Monitor(small_reference, state=monitor.to_json(), recorder=Metrics().drift("banking", "banking@7", small_reference))
    fresh = Metrics()
    Monitor(small_reference, state=monitor.to_json(), recorder=fresh.drift("banking", "banking@7", small_reference))
    assert fresh.registry.get_sample_value("driftline_drift_alarm_active", one) == 1


def test_a_new_version_drops_the_series_of_the_old_one(
    small_reference: Reference, make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    metrics = Metrics()
    first = Monitor(small_reference, recorder=metrics.drift("banking", "banking@1", small_reference))
    first.observe(make_vectors(np.random.default_rng(0), 300))
    fewer = make_reference(np.random.default_rng(9), n_fit=100, n_cal=60)
    recorder = metrics.drift("banking", "banking@2", fewer)
    body = metrics.exposition()[0].decode()
    assert 'version="banking@2"' in body
    assert 'version="banking@1"' not in body
    assert body.count("driftline_drift_reference_cell_ratio{") == len(fewer.cells)
    recorder.close()
    recorder.alarm_changed(True)
    assert "driftline_drift_alarm_active{" not in metrics.exposition()[0].decode()
    recorder.open()
    assert "driftline_drift_alarm_active{" in metrics.exposition()[0].decode()


def test_every_instrument_is_in_the_catalogue_with_one_line_of_help() -> None:
    metrics = Metrics()
    exposed = {
        (f"{family.name}_total" if family.type == "counter" else family.name): (family.type, family.documentation)
        for family in metrics.registry.collect()
    }
    listed = {i.name: (i.kind, i.help) for i in metrics.catalogue}
    assert exposed == listed
    for instrument in metrics.catalogue:
        assert instrument.name.startswith("driftline_")
        assert instrument.help.endswith(".")
        assert "\n" not in instrument.help
    assert "_created" not in metrics.exposition()[0].decode()
