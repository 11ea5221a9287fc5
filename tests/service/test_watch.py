"""Drift beside serving: what the monitor sees, remembers, drops and says."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest

from monitoring.metrics import Metrics
from monitoring.monitor_settings import MonitorSettings
from registry import readings
from registry.errors import Unavailable
from service.origin import Origin
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
        mode = options.pop("mode", "sequential")
        options = {"limit": 10_000, "rate": 1e6, "per_request": 1000, "per_session": 1000, "keep": 100, **options}
        settings = MonitorSettings(window=WINDOW, arl=10_000, mode=mode)
        watch = Watch(publish.registry, Metrics(), settings, **options)
        watch.start()
        made.append(watch)
        return watch

    yield make
    for watch in made:
        watch.stop()


numbers = itertools.count()


def offer(watch, version, vectors, **origin):
    """Hand over vectors of texts that are all different."""
    return watch.offer(version, vectors, [b"%d" % next(numbers) for _ in vectors], Origin(**origin))


def state_of(watch, adapter="support"):
    """The shared state, once what was offered so far is in it, or could not be stored."""

    def look(watched):
        watched[adapter].push()
        return watched[adapter].monitor.to_json()

    return watch.ask(look).result(timeout=20)


def gauge(watch, name, **labels):
    return watch._metrics.registry.get_sample_value(name, {"adapter": "support", **labels})


def test_usual_traffic_is_counted_and_raises_nothing(publish, live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    for _ in range(4):
        offer(watch, version, usual[:32])
        state_of(watch)
    state = state_of(watch)
    assert (state["observations"], state["windows"], state["alarm"]) == (128, 2, None)
    assert gauge(watch, "driftline_drift_observations_total", segment="") == 128
    assert gauge(watch, "driftline_drift_evidence_total") == 128
    assert gauge(watch, "driftline_drift_alarm_active") == 0
    with publish.registry.reading() as session:
        stored = readings.latest(session, "support")
    assert [(r.window_n, r.alarm, sum(r.cells)) for r in stored] == [(64, False, 64)] * 2
    # Counts are stored once, and an explanation only where something needs one.
    assert not {"window", "moved"} & stored[0].statistics.keys()
    assert stored[0].statistics["number"] == 2


def test_what_was_served_reaches_the_registry_within_a_second_or_so(publish, live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    offer(watch, version, usual[:9])
    deadline = time.monotonic() + 10
    while (stored := kept(publish)) is None or stored.state["observations"] < 9:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert gauge(watch, "driftline_drift_unstored_observations") == 0


def kept(publish, version=1):
    with publish.registry.reading() as session:
        return readings.get_state(session, "support", version)


def test_of_one_request_and_one_session_only_a_few_vectors_are_evidence(live, watch_of):
    version, usual = live
    watch = watch_of(per_request=16, per_session=20)
    watch.follow({"support": version})
    offer(watch, version, np.tile(usual[:32], (8, 1)))
    assert state_of(watch)["observations"] == 16
    assert gauge(watch, "driftline_drift_observations_total", segment="") == 16
    assert gauge(watch, "driftline_drift_novelty_pvalue_count", segment="") == 16
    assert gauge(watch, "driftline_drift_skipped_observations_total", reason="request") == 240
    for _ in range(3):
        offer(watch, version, usual[:8], session=7)
    assert state_of(watch)["observations"] == 36
    assert gauge(watch, "driftline_drift_skipped_observations_total", reason="session") == 4
    again = [b"one text"] * 8
    watch.offer(version, usual[:8], again)
    watch.offer(version, usual[:8], again)
    assert state_of(watch)["observations"] == 37
    assert gauge(watch, "driftline_drift_skipped_observations_total", reason="duplicate") == 15


def test_segments_are_counted_apart_and_are_not_more_than_so_many(live, watch_of, monkeypatch):
    version, usual = live
    monkeypatch.setattr("service.segments.MAX_SEGMENTS", 2)
    watch = watch_of()
    watch.follow({"support": version})
    for name, count in (("mobile", 5), ("web", 6), ("fax", 7), ("telex", 8), ("web", 9)):
        offer(watch, version, usual[:count], segment=name)
    offer(watch, version, usual[:10])
    assert state_of(watch)["observations"] == 45
    counted = {name: gauge(watch, "driftline_drift_observations_total", segment=name) for name in ("mobile", "web", "")}
    assert counted == {"mobile": 5, "web": 15, "": 10}
    assert gauge(watch, "driftline_drift_observations_total", segment="other") == 15
    assert gauge(watch, "driftline_drift_observations_total", segment="fax") is None
    assert gauge(watch, "driftline_drift_evidence_log", detector="segment:web") is not None


def test_an_alarm_in_a_segment_names_it(live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    for at in range(0, 50, 5):
        offer(watch, version, usual[at : at + 5], segment="web")
        offer(watch, version, foreign(count=40)[2 * at // 5 : 2 * at // 5 + 2], segment="mobile")
    alarm = state_of(watch)["alarm"]
    assert "mobile" in {part["segment"] for part in alarm["detectors"]}
    assert "web" not in {part["segment"] for part in alarm["detectors"]}


def test_a_corpus_sent_in_the_order_of_its_labels_raises_nothing(live, watch_of):
    """Usual texts, but request after request of one neighbourhood: without a bound on evidence it is an alarm."""
    version, usual = live
    cells = version.reference.assign(usual)
    most = usual[cells == np.bincount(cells).argmax()]
    alarms = []
    for per_request in (1000, 4):
        watch = watch_of(per_request=per_request)
        watch.follow({"support": version})
        offer(watch, version, np.tile(most, (2 * WINDOW // len(most) + 1, 1)))
        for _ in range(3):
            offer(watch, version, usual)
        alarms.append(state_of(watch)["alarm"] is not None)
        watch.acknowledge("support", "test").result(timeout=20)
        watch.stop()
    assert alarms == [True, False]


def test_only_the_newest_readings_are_kept(publish, live, watch_of):
    version, usual = live
    watch = watch_of(keep=3)
    watch.follow({"support": version})
    for _ in range(5):
        offer(watch, version, np.tile(usual, (2, 1))[:WINDOW])
        state_of(watch)
    assert state_of(watch)["windows"] == 5
    with publish.registry.reading() as session:
        assert [r.statistics["number"] for r in readings.latest(session, "support")] == [5, 4, 3]


def test_services_on_one_registry_share_an_alarm_and_its_release(publish, live, watch_of):
    version, usual = live
    finder, other = watch_of(), watch_of()
    for watch in (finder, other):
        watch.follow({"support": version})
    offer(other, version, usual[:20])
    assert state_of(other)["alarm"] is None
    offer(finder, version, foreign())
    raised = state_of(finder)["alarm"]
    assert raised is not None
    assert gauge(finder, "driftline_drift_alarms_total", statistic="novelty") == 1
    offer(other, version, usual)  # what was counted here is added to what is known there
    state = state_of(other)
    assert state["alarm"]["observation"] == raised["observation"]
    assert state["observations"] == 20 + WINDOW + len(usual)
    assert gauge(other, "driftline_drift_alarm_active") == 1
    assert gauge(other, "driftline_drift_alarms_total", statistic="novelty") is None  # counted by who raised it
    late = watch_of()
    late.follow({"support": version})
    assert state_of(late)["alarm"]["observation"] == raised["observation"]
    assert other.acknowledge("support", "ann").result(timeout=20) is True
    for watch in (finder, late):
        watch.follow({"support": version})  # what the catalog does when the registry has changed
        assert state_of(watch)["alarm"] is None
        assert gauge(watch, "driftline_drift_alarm_active") == 0
    offer(finder, version, foreign())
    assert state_of(finder)["alarm"] is not None
    deadline = time.monotonic() + 20
    while gauge(other, "driftline_drift_alarm_active") != 1:  # it looks by itself as well
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_foreign_traffic_raises_an_alarm_that_survives_a_restart(publish, live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    offer(watch, version, foreign())
    assert state_of(watch)["alarm"] is not None
    offer(watch, version, usual[:30])
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
    offer(watch, version, foreign())
    assert state_of(watch)["alarm"] is not None

    def acknowledge():
        with publish.registry.writing() as session:
            readings.acknowledge(session, "support", 1, by="cli")

    acknowledge()
    watch.follow({"support": version})  # what the catalog does when the registry has changed
    assert state_of(watch)["alarm"] is None
    assert gauge(watch, "driftline_drift_alarm_active") == 0
    offer(watch, version, foreign())  # a later window raises it again
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
    offer(watch, version, foreign())
    assert state_of(watch)["alarm"] is not None
    second = load(publish, publish("support", 2))
    watch.follow({"support": second})
    offer(watch, version, foreign(count=10))  # a request admitted before the switch: of no concern to the new version
    assert (state_of(watch)["alarm"], state_of(watch)["observations"]) == (None, 0)
    assert gauge(watch, "driftline_drift_alarm_active") == 0
    watch.follow({"support": version})  # rolled back: the old latch is where it was
    assert state_of(watch)["alarm"] is not None


def test_what_does_not_fit_is_dropped_and_counted(live, publish):
    version, usual = live
    settings = MonitorSettings(window=WINDOW, arl=10_000)
    watch = Watch(publish.registry, Metrics(), settings, limit=50, rate=1e6, per_request=99, per_session=9, keep=9)
    assert offer(watch, version, usual[:40])
    assert not offer(watch, version, usual[:20])
    assert gauge(watch, "driftline_drift_skipped_observations_total", reason="behind") == 20
    watch.start()
    watch.follow({"support": version})
    deadline = time.monotonic() + 10
    while not offer(watch, version, usual[:20]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watch.stop()


def test_busy_traffic_is_sampled_at_a_rate_and_the_rest_is_counted(live, watch_of, monkeypatch):
    version, usual = live
    monkeypatch.setattr("service.watch.BURST", 50)
    watch = watch_of(rate=0.001)
    watch.follow({"support": version})
    for _ in range(3):
        assert offer(watch, version, usual[:30])
    assert state_of(watch)["observations"] == 50
    assert gauge(watch, "driftline_drift_skipped_observations_total", reason="sampled") == 40


def test_the_monitor_outlives_bad_vectors(live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    offer(watch, version, np.full((3, 384), np.nan, dtype=np.float32))
    offer(watch, version, np.zeros((3, 5), dtype=np.float32))
    assert state_of(watch)["observations"] == 0
    offer(watch, version, usual[:5])
    assert state_of(watch)["observations"] == 5


def test_the_thread_survives_whatever_happens_in_it(live, watch_of, monkeypatch):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    state_of(watch)
    for name in ("_push_all", "_observe", "_follow"):
        monkeypatch.setattr(watch, name, lambda *_: 1 / 0)
    watch._push_at = float("-inf")
    offer(watch, version, usual[:5])
    watch.follow({})
    assert state_of(watch)["observations"] == 0
    monkeypatch.undo()
    offer(watch, version, usual[:5])
    assert state_of(watch)["observations"] == 5
    assert watch.alive
    monkeypatch.setattr(watch, "_push_all", lambda _: 1 / 0)
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
    offer(watch, version, usual[:7])
    assert state_of(watch)["observations"] == 7


def test_an_outage_at_a_swap_loses_no_evidence(publish, live, watch_of, monkeypatch):
    first, usual = live
    second = load(publish, publish("support", 2))
    watch = watch_of()
    watch.follow({"support": first})
    offer(watch, first, usual[:10])
    assert state_of(watch)["observations"] == 10

    def away():
        raise Unavailable("gone")

    monkeypatch.setattr(publish.registry, "writing", away)
    monkeypatch.setattr(publish.registry, "reading", away)
    offer(watch, first, usual[:7])
    watch.follow({"support": second})  # the first one's evidence cannot be stored now
    offer(watch, second, foreign())
    assert state_of(watch)["alarm"] is None  # what decides is in the registry
    watch.follow({"support": first})  # rolled back
    offer(watch, first, usual[:5])
    monkeypatch.undo()
    watch.follow({"support": first})
    assert state_of(watch)["observations"] == 22
    watch.ask(lambda _: watch._push_all(time.monotonic())).result(timeout=20)
    assert kept(publish, 2).alarm_active


def test_an_adapter_that_vanishes_takes_its_gauges_with_it(live, watch_of):
    version, usual = live
    watch = watch_of()
    watch.follow({"support": version})
    offer(watch, version, usual[:5])
    assert state_of(watch)["observations"] == 5
    watch.follow({})
    watch.ask(lambda _: None).result(timeout=20)
    assert gauge(watch, "driftline_drift_alarm_active") is None
    assert gauge(watch, "driftline_drift_calibrated") is None
