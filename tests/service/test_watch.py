"""Drift beside serving: what the monitor sees, remembers, drops and says."""

import time

import numpy as np
import pytest

from monitoring.evaluate import MonitorSettings
from monitoring.metrics import Metrics
from registry import readings
from service.snapshot import LoadedVersion
from service.watch import Watch

WINDOW = 64


@pytest.fixture
def live(publish):
    """The live version of an adapter, loaded, and vectors that are like its reference and unlike it."""
    version = publish("support", 1)
    loaded = load(publish, version)
    usual = np.asarray(loaded.reference.replay)
    return loaded, usual


def load(publish, version):
    from monitoring.reference import Reference

    reference = Reference.from_bytes(publish.registry.fetch(version.reference))
    return LoadedVersion(version, publish.head(version), reference)


def foreign(dimension=384, count=WINDOW):
    vectors = np.random.default_rng(5).normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def watch_of(publish):
    made = []

    def make(**options):
        watch = Watch(publish.registry, Metrics(), MonitorSettings(window=WINDOW, arl=10_000), limit=10_000, **options)
        watch.start()
        made.append(watch)
        return watch

    yield make
    for watch in made:
        watch.stop()


def state_of(watch, adapter="support"):
    return watch.ask(lambda monitors: monitors[adapter].to_json()).result(timeout=20)


def gauge(watch, name):
    return watch._metrics.registry.get_sample_value(name, {"adapter": "support"})


def test_usual_traffic_is_counted_and_raises_nothing(publish, live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    for _ in range(4):
        watch.offer(version, usual[:32])
    state = state_of(watch)
    assert (state["observations"], state["windows"], state["alarm"]) == (128, 2, None)
    assert gauge(watch, "driftline_drift_observations_total") == 128
    assert gauge(watch, "driftline_drift_alarm_active") == 0
    with publish.registry.reading() as session:
        stored = readings.latest(session, "support")
    assert [(r.window_n, r.alarm, sum(r.cells)) for r in stored] == [(64, False, 64)] * 2


def test_foreign_traffic_raises_an_alarm_that_survives_a_restart(publish, live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    watch.offer(version, foreign())
    assert state_of(watch)["alarm"] is not None
    watch.offer(version, usual[:30])
    watch.stop()
    again = watch_of()
    again.follow({"support": version})
    state = state_of(again)
    assert state["alarm"] is not None
    assert state["observations"] == WINDOW + 30  # the window being filled is remembered too
    assert gauge(again, "driftline_drift_alarm_active") == 1
    assert again.acknowledge("support", "ann").result(timeout=20) is True
    assert again.acknowledge("support", "ann").result(timeout=20) is False
    assert gauge(again, "driftline_drift_alarm_active") == 0
    with publish.registry.reading() as session:
        kept = readings.get_state(session, "support", 1)
    assert (kept.alarm_active, kept.acknowledged_by) == (False, "ann")


def test_an_acknowledgement_made_elsewhere_is_followed(publish, live, watch_of):
    version, _ = live
    watch = watch_of()
    watch.follow({"support": version})
    watch.offer(version, foreign())
    assert state_of(watch)["alarm"] is not None

    def acknowledge():
        with publish.registry.writing() as session:
            readings.acknowledge(session, "support", 1, by="cli")

    acknowledge()
    watch.follow({"support": version})  # what the catalog does when the registry has changed
    assert state_of(watch)["alarm"] is None
    assert gauge(watch, "driftline_drift_alarm_active") == 0
    watch.offer(version, foreign())  # a later window raises it again
    assert state_of(watch)["alarm"] is not None
    watch.stop()
    acknowledge()
    again = watch_of()
    again.follow({"support": version})
    assert state_of(again)["alarm"] is None


def test_a_new_version_is_watched_afresh(publish, live, watch_of):
    version, _ = live
    watch = watch_of()
    watch.follow({"support": version})
    watch.offer(version, foreign())
    assert state_of(watch)["alarm"] is not None
    second = load(publish, publish("support", 2))
    watch.follow({"support": second})
    watch.offer(version, foreign(count=10))  # a request admitted before the switch: of no concern to the new version
    assert (state_of(watch)["alarm"], state_of(watch)["observations"]) == (None, 0)
    assert gauge(watch, "driftline_drift_alarm_active") == 0
    watch.follow({"support": version})  # rolled back: the old latch is where it was
    assert state_of(watch)["alarm"] is not None


def test_what_does_not_fit_is_dropped_and_counted(live, publish):
    version, usual = live
    watch = Watch(publish.registry, Metrics(), MonitorSettings(window=WINDOW, arl=10_000), limit=50)
    assert watch.offer(version, usual[:40])
    assert not watch.offer(version, usual[:20])
    assert gauge(watch, "driftline_drift_skipped_observations_total") == 20
    watch.start()
    watch.follow({"support": version})
    deadline = time.monotonic() + 10
    while not watch.offer(version, usual[:20]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watch.stop()


def test_the_monitor_outlives_bad_vectors_and_an_outage(publish, live, watch_of, monkeypatch):
    from registry.errors import Unavailable

    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    watch.offer(version, np.full((3, 384), np.nan, dtype=np.float32))
    watch.offer(version, np.zeros((3, 5), dtype=np.float32))
    assert state_of(watch)["observations"] == 0

    def away():
        raise Unavailable("gone")

    monkeypatch.setattr(publish.registry, "writing", away)
    watch.offer(version, foreign())
    assert state_of(watch)["alarm"] is not None
    monkeypatch.undo()
    watch.offer(version, usual[:10])
    watch.stop()
    with publish.registry.reading() as session:
        assert [r.alarm for r in readings.latest(session, "support")] == [True]
        assert readings.get_state(session, "support", 1).alarm_active


def test_a_damaged_state_is_begun_anew(publish, live, watch_of):
    version, _ = live
    with publish.registry.writing() as session:
        readings.put_state(session, "support", 1, state={"format": 99}, alarm_active=False)
    watch = watch_of()
    watch.follow({"support": version})
    assert state_of(watch)["observations"] == 0


def test_drift_over_http(serving, backbone_home, publish):
    publish("support", 1)
    publish("bare", 2, reference=False)
    with serving(backbone_home, drift_window=64, drift_arl=10_000) as client:
        assert client.get("/admin/drift/nothing").status_code == 404
        assert client.get("/admin/drift/bare").json()["state"] == "no_reference"
        first = client.get("/admin/drift/support").json()
        assert (first["state"], first["version"], first["readings"]) == ("warming", "support@1", [])
        assert first["reference"]["calibration"] == 110
        odd = [f"{animal} {n} eats leaves in {place}" for n in range(8) for animal in ("giraffe", "panda")
               for place in ("Kenya", "China", "Peru", "Chad")]  # fmt: skip
        assert client.post("/v1/embeddings", json={"model": "support", "input": odd}).status_code == 200
        client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": odd})  # the backbone is not watched
        seen = client.get("/admin/drift/support").json()
        assert (seen["state"], seen["alarm_active"], seen["observations"]) == ("alarm", True, 64)
        assert "novelty" in seen["alarm"]["statistics"]
        assert seen["alarm"]["moved"][0]["medoids"]
        assert seen["alarm_since"]
        assert seen["readings"][0]["statistics"]["novelty"]["alarm"] is True
        assert 'driftline_drift_alarm_active{adapter="support"} 1.0' in client.get("/metrics").text
        assert 'driftline_drift_alarm_active{adapter="bare"} 0.0' in client.get("/metrics").text
        released = client.post("/admin/drift/support/acknowledge").json()
        assert (released["released"], released["state"]) == (True, "watching")
        assert released["acknowledged_by"] == "local"
        assert client.post("/admin/drift/bare/acknowledge").status_code == 409
        assert client.post("/admin/drift/nothing/acknowledge").status_code == 404
        assert client.get("/admin/drift/support?history=501").status_code == 422
