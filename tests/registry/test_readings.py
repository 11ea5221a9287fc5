"""Drift readings, the state that services share, and the alarm's life: begins, is acknowledged, begins again."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from registry import readings, versions
from registry.errors import Conflict, NotFound
from registry.registry import Registry
from registry.tables import EventRecord

Publish = Callable[..., versions.Version]


def test_readings_come_back_newest_first(stocked: Registry, publish: Publish) -> None:
    publish(), publish()
    with stocked.writing() as session:
        for n in range(5):
            readings.add(
                session,
                adapter="banking",
                version=1 + n % 2,
                window_n=256,
                statistics={"novelty": n, "p": float("inf")},
                cells=[n, 2, 0],
                alarm=n == 4,
            )
    with stocked.reading() as session:
        found = readings.latest(session, "banking", 3)
        assert [(r.version, r.statistics, r.cells, r.alarm) for r in found] == [
            (1, {"novelty": 4, "p": None}, [4, 2, 0], True),
            (2, {"novelty": 3, "p": None}, [3, 2, 0], False),
            (1, {"novelty": 2, "p": None}, [2, 2, 0], False),
        ]
        assert [r.version for r in readings.latest(session, "banking", version=2)] == [2, 2]
        assert readings.latest(session, "\x00") == readings.latest(session, "other") == []


def test_only_the_newest_readings_of_a_version_are_kept(stocked: Registry, publish: Publish) -> None:
    publish(), publish()
    with stocked.writing() as session:
        for n in range(7):
            for version in (1, 2):
                readings.add(
                    session, adapter="banking", version=version, window_n=n, statistics={}, cells=[], alarm=False
                )
        readings.trim(session, "banking", 1, 3)
        readings.trim(session, "banking", 2, 7)
    with stocked.reading() as session:
        assert [r.window_n for r in readings.latest(session, "banking", version=1)] == [6, 5, 4]
        assert len(readings.latest(session, "banking", version=2)) == 7


def test_an_alarm_begins_is_acknowledged_and_begins_again(stocked: Registry, publish: Publish) -> None:
    publish()
    with stocked.writing() as session:
        assert readings.get_state(session, "banking") is None
        with pytest.raises(NotFound):
            readings.acknowledge(session, "banking", by="someone")
        versions.promote(session, "banking", 1, by="test")
        calm = readings.put_state(session, "banking", 1, state={"n": 1}, alarm_active=False)
        assert calm.alarm_since is None
        began = readings.put_state(session, "banking", 1, state={"n": 2}, alarm_active=True)
        still = readings.put_state(session, "banking", 1, state={"n": 3}, alarm_active=True)
        assert began.alarm_since == still.alarm_since
        seen = readings.acknowledge(session, "banking", by="someone")
        assert (seen.alarm_active, seen.acknowledged_by, seen.state) == (False, "someone", {"n": 3})
        assert readings.acknowledge(session, "banking", 1, by="another") == seen
        again = readings.put_state(session, "banking", 1, state={}, alarm_active=True)
        assert again.acknowledged_by is None
        assert again.alarm_since is not None
        assert seen.acknowledged_at is not None
        assert again.alarm_since >= seen.acknowledged_at
        # Another service knows of no alarm: it does not end this one.
        other = readings.put_state(session, "banking", 1, state={"n": 9}, alarm_active=False)
        assert (other.alarm_active, other.alarm_since, other.state) == (True, again.alarm_since, {"n": 9})
    with stocked.reading() as session:
        assert readings.get_state(session, "banking") == readings.get_state(session, "banking", 1)
        told = [
            event.kind
            for event in session.scalars(select(EventRecord).order_by(EventRecord.id))
            if event.kind.startswith("drift.")
        ]
    assert told == ["drift.alarm_began", "drift.acknowledged", "drift.alarm_began"]


def test_services_that_race_for_a_state_each_add_to_what_the_others_made(
    stocked: Registry, publish: Publish, racers: Any
) -> None:
    """Four processes add one to a shared sum, twelve times each; every one of them is in it once."""
    publish()
    script = """
registry = home.registry()
ready()
for step in range(12):
    with registry.writing() as session:
        kept = readings.state_to_change(session, "banking", 1, reference=None)
        state = dict(kept.state) if kept else {"sum": 0}
        state["sum"] += 1
        state[str(number)] = step
        readings.put_state(session, "banking", 1, state=state, alarm_active=False)
registry.close()
say("done")
"""
    assert racers.run(4, script) == ["done"] * 4
    with stocked.reading() as session:
        kept = readings.get_state(session, "banking", 1)
        assert kept is not None
        assert kept.state == {"sum": 48, **{str(number): 11 for number in range(4)}}
        assert readings.last_changes(session) == {("banking", 1): kept.updated_at}


def test_a_state_of_a_reference_that_was_replaced_is_not_changed(stocked: Registry, publish: Publish) -> None:
    publish()
    with stocked.writing() as session:
        assert readings.state_to_change(session, "banking", 1, reference=None) is None
        readings.put_state(session, "banking", 1, state={"n": 1}, alarm_active=False)
        found = readings.state_to_change(session, "banking", 1, reference=None)
        assert found is not None
        assert found.state == {"n": 1}
        with pytest.raises(Conflict, match="another reference"):
            readings.state_to_change(session, "banking", 1, reference="a" * 64)
        with pytest.raises(NotFound):
            readings.state_to_change(session, "banking", 9, reference=None)
