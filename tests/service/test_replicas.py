"""Services that share one monitor: together they decide as one would, and no evidence is lost or counted twice."""

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monitoring.monitor import Monitor
from monitoring.reference import Reference
from monitoring.window import Window
from registry import backbones, readings, versions
from registry.errors import Unavailable
from registry.home import Home
from tests.service.replica import SETTINGS, pushed, watch_of

BACKBONE = "b" * 64
DIMENSION = 16
TOPICS = 6
GROWN = 2


def texts(rng, n, weights=None, strange=0.0):
    """Unit vectors (n, d) of TOPICS clusters, and a share that is like none of them."""
    centres = np.random.default_rng(1).normal(size=(TOPICS, DIMENSION))
    topics = rng.choice(TOPICS, n, p=weights)
    vectors = centres[topics] + 0.6 * rng.normal(size=(n, DIMENSION))
    odd = rng.random(n) < strange
    vectors[odd] = 4 * rng.normal(size=(int(odd.sum()), DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    fit = texts(rng, 600)
    return Reference.build(
        fit=fit, fit_ids=[str(i) for i in range(len(fit))], fit_labels=None, calibration=texts(rng, 600),
        replay=texts(rng, 60),
    )  # fmt: skip


@pytest.fixture
def home(tmp_path, reference):
    """A home with the live version support@1."""
    home = Home.at(tmp_path / "home")
    registry = home.registry()
    picture = registry.store(reference.to_bytes())
    with registry.writing() as session:
        manifest = {"name": "base", "dimension": DIMENSION, "max_tokens": 256, "source": "test"}
        backbones.add(session, manifest, BACKBONE)
        versions.ensure_adapter(session, "support", BACKBONE)
        versions.publish(
            session, adapter="support", digest="d" * 64, kind="head", backbone=BACKBONE, reference=picture,
            parent=None, job_id=None, dataset="support@1", metrics={}, verdict=None, rejected=False,
        )  # fmt: skip
        versions.promote(session, "support", 1, by="test")
    registry.close()
    return home


@pytest.fixture
def open_registry(home):
    opened = []

    def open_one():
        opened.append(home.registry())
        return opened[-1]

    yield open_one
    for registry in opened:
        registry.close()


@pytest.fixture
def watching(open_registry):
    """Watches of services that have a connection each; they end with the test."""
    watches = []

    def make(count=1):
        for _ in range(count):
            registry = open_registry()
            watch, version = watch_of(registry)
            watches.append(watch)
            yield registry, watch, version

    yield make
    for watch in watches:
        watch.stop()


def counted(registry, reference):
    """Everything the shared state has counted: by cell, from the windows that are closed and the one being filled."""
    with registry.reading() as session:
        kept = readings.get_state(session, "support", 1)
        closed = readings.latest(session, "support", 10_000)
    if kept is None:
        return np.zeros(len(reference.cells), dtype=int), 0
    cells = np.array(kept.state["window"]["cells"]) + sum(np.array(r.cells) for r in closed)
    return cells, kept.state["evidence"]


def of(reference, vectors):
    return np.bincount(reference.assign(vectors), minlength=len(reference.cells))


class Child:
    """A replica in a process of its own, and the ledger of what it was told is stored."""

    def __init__(self, home, vectors):
        self.ledger = 0
        command = [sys.executable, str(Path(__file__).with_name("replica.py")), str(home.data_dir), str(vectors)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == {"ready": True}

    def tell(self, **command):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None  # cut off by its death: it was never said

    def read_until_dead(self):
        while (said := self.answer()) is not None:
            self.ledger = said["stored"]
        self.process.wait(timeout=30)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def test_kill_9_loses_nothing_that_was_stored_and_counts_nothing_twice(home, open_registry, reference, tmp_path):
    """The ledger: every answer that the registry has taken so many; the counts are those of just these vectors."""
    vectors = texts(np.random.default_rng(2), 4000)
    path = tmp_path / "vectors.npy"
    np.save(path, vectors)
    registry = open_registry()
    begin, chance = 0, random.Random(3)
    expected = np.zeros(len(reference.cells), dtype=int)
    for when in ("before", "after", "at any time"):
        before = counted(registry, reference)[1]
        child = Child(home, path)
        offered = 0
        for step in range(40):
            if step == 5 and when != "at any time":
                child.tell(die=when)
            size = chance.randint(1, 12)
            child.tell(offer=list(range(begin + offered, begin + offered + size)))
            offered += size
            if when == "at any time" and step == 8:
                assert child.answer() is not None
                child.process.kill()
        child.read_until_dead()
        cells, evidence = counted(registry, reference)
        stored = evidence - before
        assert child.ledger <= evidence, "what was said to be stored is stored"
        assert 0 < stored <= offered, "nothing twice"
        if when == "before":
            assert evidence == child.ledger  # the transaction it died in never was
        expected += of(reference, vectors[begin : begin + stored])
        assert np.array_equal(cells, expected), "exactly the first of what was served, once each"
        begin += offered


@pytest.mark.parametrize("seed", range(3))
def test_commits_whose_end_is_not_known_are_counted_once(watching, reference, monkeypatch, seed):
    """Pushes that fail before the commit, in it, or after it without a word, in any order; and another service."""
    (registry, watch, version), (other_registry, other, _) = watching(2)
    vectors = texts(np.random.default_rng(seed), 600)
    chance = random.Random(seed)
    whole = registry.writing
    fate = "well"

    @contextlib.contextmanager
    def writing():
        if fate == "away":
            raise Unavailable("gone")
        with whole() as session:
            yield session
            if fate == "undone":
                raise Unavailable("gone at the commit")
        if fate == "unheard":
            raise Unavailable("gone after the commit")

    monkeypatch.setattr(registry, "writing", writing)
    begin, doubts = 0, 0
    while begin < 560:
        fate = chance.choice(["well", "away", "undone", "unheard", "unheard"])
        size = chance.randint(1, 20)
        rows = range(begin, begin + size)
        begin += size
        serving = watch if chance.random() < 0.8 else other
        serving.offer(version, vectors[rows], [b"%d" % row for row in rows])
        doubts += serving is watch and fate in ("undone", "unheard")
        assert (pushed(serving) is not None) == (serving is other or fate == "well")
    assert doubts > 10
    fate = "well"
    assert pushed(watch) == begin
    assert np.array_equal(counted(other_registry, reference)[0], of(reference, vectors[:begin]))
    stored = watch._metrics.registry.get_sample_value("driftline_drift_evidence_total", {"adapter": "support"})
    seen = watch._metrics.registry.get_sample_value(
        "driftline_drift_observations_total", {"adapter": "support", "segment": ""}
    )
    assert stored == seen


def test_while_the_registry_is_away_evidence_adds_up(watching, reference, monkeypatch):
    ((registry, watch, version),) = watching(1)
    vectors = texts(np.random.default_rng(4), 500, strange=0.3)

    def away():
        raise Unavailable("gone")

    monkeypatch.setattr(registry, "writing", away)
    for start in range(0, 500, 50):
        watch.offer(version, vectors[start : start + 50], [b"%d" % row for row in range(start, start + 50)])
        assert pushed(watch) is None
    value = watch._metrics.registry.get_sample_value
    assert value("driftline_drift_unstored_observations", {"adapter": "support"}) == 500
    assert value("driftline_drift_alarm_active", {"adapter": "support"}) == 0
    monkeypatch.undo()
    assert pushed(watch) == 500
    assert value("driftline_drift_unstored_observations", {"adapter": "support"}) == 0
    assert value("driftline_drift_alarm_active", {"adapter": "support"}) == 1
    assert np.array_equal(counted(registry, reference)[0], of(reference, vectors))


KINDS = ("novel texts", "a neighbourhood that grew", "nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_three_services_decide_as_one_that_sees_all_would(watching, reference, kind):
    """Each with a third of the traffic; the alarm comes within a batch and names the same neighbourhood."""
    rng = np.random.default_rng(KINDS.index(kind))
    weights = np.full(TOPICS, 1.0)
    weights[GROWN] = 4.0
    after = {
        KINDS[0]: {"strange": 0.25}, KINDS[1]: {"weights": weights / weights.sum()}, KINDS[2]: {},
    }[kind]  # fmt: skip
    stream = np.concatenate([texts(rng, 240), texts(rng, 600, **after)])
    services = list(watching(3))
    alone = Monitor(reference, SETTINGS)  # told of the same vectors, three services' at a time
    same = Monitor(reference, SETTINGS)  # and batch by batch
    step = 30
    for start in range(0, len(stream), step):
        rows = np.arange(start, start + step)
        scored = reference.score(stream[rows], features=np.arange(step))
        alone.apply(Window.of(reference, scored))
        for number, (_, watch, version) in enumerate(services):
            own = rows[number::3]
            same = Monitor(reference, SETTINGS, same.to_json())
            same.apply(Window.of(reference, scored.rows(own - start)))
            watch.offer(version, stream[own], [b"%d" % row for row in own])
            assert pushed(watch) is not None
        assert shared(services) == {**same.to_json(), "applied": shared(services)["applied"]}
        together = services[-1][1].ask(lambda w: w["support"].monitor.alarm_active).result(timeout=20)
        if alone.alarm_active and together:
            break
    if kind == "nothing":
        assert not alone.alarm_active
        assert not together
        return
    for _, watch, _ in services:
        watch.ask(lambda watched: watched["support"].look()).result(timeout=20)
    found = [watch.ask(lambda w: w["support"].monitor.alarm).result(timeout=20) for _, watch, _ in services]
    assert alone.alarm is not None
    assert found[0] is not None
    assert found[0] == found[1] == found[2], "one alarm, whoever is asked"
    assert min(found[0].observation, alone.alarm.observation) > 240, "not before the change"
    assert abs(found[0].observation - alone.alarm.observation) <= 2 * step, "averages step every 32 observations or so"
    assert found[0].statistics == alone.alarm.statistics
    if kind == KINDS[1]:
        (named,) = {alarm.moved[0]["cell"] for alarm in (*found, alone.alarm)}
        assert named in reference.assign(texts(np.random.default_rng(9), 50, np.eye(TOPICS)[GROWN]))


def shared(services):
    """The state as the last service to push has it."""
    return services[-1][1].ask(lambda watched: watched["support"].monitor.to_json()).result(timeout=20)
