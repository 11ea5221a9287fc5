"""Drift beside serving: what the monitor sees, remembers, drops and says."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from monitoring.evaluate import MonitorSettings
from monitoring.metrics import Metrics
from registry import readings
from registry.errors import Unavailable
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
        options = {"limit": 10_000, "rate": 1e6, "per_request": 1000, "keep": 100, **options}
        watch = Watch(publish.registry, Metrics(), MonitorSettings(window=WINDOW, arl=10_000), **options)
        watch.start()
        made.append(watch)
        return watch

    yield make
    for watch in made:
        watch.stop()


def state_of(watch, adapter="support"):
    return watch.ask(lambda monitors: monitors[adapter].to_json()).result(timeout=20)


def gauge(watch, name, **labels):
    return watch._metrics.registry.get_sample_value(name, {"adapter": "support", **labels})


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
    # Counts are stored once, and an explanation only where something needs one.
    assert not {"window", "moved"} & stored[0].statistics.keys()
    assert stored[0].statistics["number"] == 2


def test_of_one_request_only_a_few_vectors_are_evidence_and_all_are_counted(live, watch_of):
    version, usual = live
    watch = watch_of(per_request=16)
    watch.follow({"support": version})
    burst = np.tile(usual[:32], (8, 1))
    watch.offer(version, burst)
    state = state_of(watch)
    assert (state["observations"], state["evidence"], state["window"]["n"]) == (256, 16, 16)
    assert gauge(watch, "driftline_drift_observations_total") == 256
    assert gauge(watch, "driftline_drift_evidence_total") == 16
    assert gauge(watch, "driftline_drift_novelty_pvalue_count") == 256
    watch.offer(version, usual[:16])
    assert state_of(watch)["evidence"] == 32


def test_a_corpus_sent_in_the_order_of_its_labels_raises_nothing(live, watch_of):
    """Usual texts, but request after request of one neighbourhood: without a bound on evidence it is an alarm."""
    version, usual = live
    cells = version.reference.assign(usual)
    most = usual[cells == np.bincount(cells).argmax()]
    alarms = []
    for per_request in (1000, 4):
        watch = watch_of(per_request=per_request)
        watch.follow({"support": version})
        watch.offer(version, np.tile(most, (WINDOW // len(most) + 1, 1)))
        for _ in range(3):
            watch.offer(version, usual)
        alarms.append(state_of(watch)["alarm"] is not None)
        watch.acknowledge("support", "test").result(timeout=20)
        watch.stop()
    assert alarms == [True, False]


def test_only_the_newest_readings_are_kept(publish, live, watch_of):
    version, usual = live
    watch = watch_of(keep=3)
    watch.follow({"support": version})
    for _ in range(5):
        watch.offer(version, np.tile(usual, (2, 1))[:WINDOW])
    assert state_of(watch)["windows"] == 5
    with publish.registry.reading() as session:
        assert [r.statistics["number"] for r in readings.latest(session, "support")] == [5, 4, 3]


def test_services_on_one_registry_share_an_alarm_and_its_release(publish, live, watch_of):
    version, usual = live
    finder, other = watch_of(), watch_of()
    for watch in (finder, other):
        watch.follow({"support": version})
    other.offer(version, usual[:20])
    assert state_of(other)["alarm"] is None
    finder.offer(version, foreign())
    raised = state_of(finder)["alarm"]
    assert raised is not None
    other.offer(version, np.tile(usual, (3, 1))[:WINDOW])  # stores a state of its own, which knows of no alarm
    assert state_of(other)["alarm"] == raised
    assert gauge(other, "driftline_drift_alarm_active") == 1
    finder.follow({"support": version})
    assert state_of(finder)["alarm"] == raised
    with publish.registry.reading() as session:
        assert readings.get_state(session, "support", 1).alarm_active
    late = watch_of()
    late.follow({"support": version})
    assert state_of(late)["alarm"] == raised
    assert other.acknowledge("support", "ann").result(timeout=20) is True
    for watch in (finder, late):
        watch.follow({"support": version})
        assert state_of(watch)["alarm"] is None
        assert gauge(watch, "driftline_drift_alarm_active") == 0
    finder.offer(version, foreign())
    assert state_of(finder)["alarm"] is not None
    other.follow({"support": version})  # what the catalog does when the registry has changed
    assert state_of(other)["alarm"] is not None


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
    settings = MonitorSettings(window=WINDOW, arl=10_000)
    watch = Watch(publish.registry, Metrics(), settings, limit=50, rate=1e6, per_request=9, keep=9)
    assert watch.offer(version, usual[:40])
    assert not watch.offer(version, usual[:20])
    assert gauge(watch, "driftline_drift_skipped_observations_total", reason="behind") == 20
    watch.start()
    watch.follow({"support": version})
    deadline = time.monotonic() + 10
    while not watch.offer(version, usual[:20]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watch.stop()


def test_busy_traffic_is_sampled_at_a_rate_and_the_rest_is_counted(live, watch_of, monkeypatch):
    version, usual = live
    monkeypatch.setattr("service.watch.BURST", 50)
    watch = watch_of(rate=0.001)
    watch.follow({"support": version})
    assert watch.offer(version, usual[:30])
    assert not watch.offer(version, usual[:30])
    assert not watch.offer(version, usual[:30])
    assert state_of(watch)["observations"] == 50
    assert gauge(watch, "driftline_drift_skipped_observations_total", reason="sampled") == 40


def test_the_monitor_outlives_bad_vectors_and_an_outage(publish, live, watch_of, monkeypatch):
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


def test_the_thread_survives_whatever_happens_in_it(live, watch_of, monkeypatch):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    state_of(watch)
    for name in ("_store_all", "_observe", "_follow"):
        monkeypatch.setattr(watch, name, lambda *_: 1 / 0)
    watch._stored_at = float("-inf")
    watch.offer(version, usual[:5])
    watch.follow({})
    assert state_of(watch)["observations"] == 0
    monkeypatch.undo()
    watch.offer(version, usual[:5])
    assert state_of(watch)["observations"] == 5
    assert watch.alive
    monkeypatch.setattr(watch, "_store_all", lambda: 1 / 0)
    watch.stop()
    assert not watch.alive


def test_a_question_that_was_given_up_is_not_run(live, watch_of):
    watch = watch_of()
    gate, ran = threading.Event(), []
    watch.ask(lambda _: gate.wait(10))
    question = watch.ask(lambda _: ran.append(1))
    assert question.cancel()
    gate.set()
    watch.ask(lambda _: None).result(timeout=20)
    assert ran == []


@pytest.mark.parametrize("alarm", [False, True])
@pytest.mark.parametrize("state", [{"format": 99}, {}, {"format": 1, "reference": "x"}])
def test_a_damaged_state_is_begun_anew_and_an_alarm_stays(publish, live, watch_of, state, alarm):
    version, _ = live
    with publish.registry.writing() as session:
        readings.put_state(session, "support", 1, state=state, alarm_active=alarm)
    watch = watch_of()
    watch.follow({"support": version})
    assert state_of(watch)["observations"] == 0
    assert gauge(watch, "driftline_drift_alarm_active") == float(alarm)
    assert watch.acknowledge("support", "ann").result(timeout=20) is alarm


def test_an_adapter_that_cannot_be_watched_does_not_stop_the_next(live, watch_of, monkeypatch):
    import service.watch as module

    version, usual = live
    broken = LoadedVersion(dataclasses.replace(version.record, adapter="broken"), version.adapter, version.reference)
    made = module.Watched

    def make(*args, **more):
        if args[3] is broken:
            raise RuntimeError
        return made(*args, **more)

    monkeypatch.setattr(module, "Watched", make)
    watch = watch_of()
    watch.follow({"broken": broken, "support": version})
    watch.offer(version, usual[:7])
    assert state_of(watch)["observations"] == 7


def test_an_outage_at_a_swap_loses_neither_state_nor_alarm(publish, live, watch_of, monkeypatch):
    first, usual = live
    second = load(publish, publish("support", 2))
    watch = watch_of()
    watch.follow({"support": first})
    watch.offer(first, foreign())
    watch.offer(first, usual[:10])
    assert state_of(watch)["observations"] == WINDOW + 10
    watch.follow({"support": second})
    assert state_of(watch)["observations"] == 0

    def away():
        raise Unavailable("gone")

    monkeypatch.setattr(publish.registry, "writing", away)
    monkeypatch.setattr(publish.registry, "reading", away)
    watch.offer(second, foreign())  # an alarm that the registry does not hear of
    watch.follow({"support": first})  # rolled back, and what is stored of it cannot be read
    watch.offer(first, usual[:5])
    assert state_of(watch)["observations"] == 5
    monkeypatch.undo()
    watch.ask(lambda _: watch._store_all()).result(timeout=20)
    resumed = state_of(watch)
    assert (resumed["observations"], resumed["window"]["n"]) == (WINDOW + 15, 15)
    assert resumed["alarm"] is not None
    assert gauge(watch, "driftline_drift_alarm_active") == 1
    with publish.registry.reading() as session:
        assert [(r.version, r.alarm) for r in readings.latest(session, "support")] == [(2, True), (1, True)]
        assert readings.get_state(session, "support", 2).alarm_active


def test_an_adapter_that_vanishes_takes_its_gauges_with_it(live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    watch.offer(version, usual[:5])
    assert state_of(watch)["observations"] == 5
    watch.follow({})
    watch.ask(lambda _: None).result(timeout=20)
    assert gauge(watch, "driftline_drift_alarm_active") is None
    assert gauge(watch, "driftline_drift_calibrated") is None
