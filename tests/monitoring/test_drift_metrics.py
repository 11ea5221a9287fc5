"""What the monitor saw and thinks, as metrics."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from monitoring.metrics import Metrics
from monitoring.monitor import Monitor, MonitorSettings
from monitoring.reference import Reference

Draw = Callable[..., NDArray[np.float32]]


def test_metrics_show_what_the_monitor_saw(small_reference: Reference, make_vectors: Draw) -> None:
    metrics = Metrics()
    simple = MonitorSettings(mode="windows")
    monitor = Monitor(small_reference, simple, recorder=metrics.drift("banking", "banking@7", small_reference))
    value = metrics.registry.get_sample_value
    one, all_ = {"adapter": "banking"}, {"adapter": "banking", "segment": ""}
    assert value("driftline_drift_alarm_active", one) == 0
    readings = monitor.observe(make_vectors(np.random.default_rng(3), 300, foreign=0.4)).readings
    assert value("driftline_drift_observations_total", all_) == 300
    cells = [
        value("driftline_drift_cell_observations_total", {**one, "cell": str(c.index)}) for c in small_reference.cells
    ]
    assert sum(c or 0 for c in cells) == 300
    assert value("driftline_drift_novelty_pvalue_count", all_) == 300
    # What a dashboard computes from the histogram and the counter is the reading's own rate.
    assert (value("driftline_drift_novel_observations_total", all_) or 0) > 80
    assert value("driftline_drift_statistic", {**one, "statistic": "novelty"}) == readings[0].statistic("novelty").value
    assert value("driftline_drift_effect_size", {**one, "measure": "tv_excess"}) is not None
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
    assert not re.search(r"^\w+_created[ {]", metrics.exposition()[0].decode(), re.MULTILINE)
