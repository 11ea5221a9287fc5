"""Rollouts on both databases: one an adapter, one end, counts that never double, a state that follows what is live."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from registry import events, rollouts, versions
from registry.errors import Conflict, NotFound, RegistryError
from registry.registry import Registry
from registry.rollouts import Rollout, RolloutState
from registry.tables import EventRecord, RolloutRecord, now

Publish = Callable[..., versions.Version]


@pytest.fixture
def two(stocked: Registry, publish: Publish) -> Registry:
    """Version 1 is live, 2 and 3 are candidates."""
    for _ in range(3):
        publish()
    with stocked.writing() as session:
        versions.promote(session, "banking", 1, by="ann")
    return stocked


def begin(registry: Registry, number: int = 2, **more: Any) -> Rollout:
    with registry.writing() as session:
        return rollouts.start(session, "banking", number, rules={"mode": "shadow"}, by="ann", **more)


def journal(registry: Registry) -> list[tuple[str, str]]:
    with registry.reading() as session:
        rows = session.execute(select(EventRecord.kind, EventRecord.subject).order_by(EventRecord.id)).all()
    return [(kind, subject) for kind, subject in rows if kind.startswith(("rollout.", "version.promoted"))][1:]


def test_a_rollout_begins_beside_the_live_version_and_is_in_the_journal(two: Registry) -> None:
    made = begin(two)
    assert (made.name, made.champion, made.state, made.stage) == ("banking@2", 1, RolloutState.RUNNING, 0)
    assert len(bytes.fromhex(made.salt)) == 16
    with two.reading() as session:
        assert rollouts.active(session, "banking") == rollouts.latest(session, "banking") == made
        assert rollouts.all_active(session) == [made]
        assert rollouts.get(session, made.id) == made
        assert rollouts.latest(session, "none") is rollouts.latest(session, "\x00") is None
        assert events.latest_id(session) > 0
    assert journal(two) == [("rollout.started", "banking@2")]


def test_what_cannot_be_compared_is_refused(stocked: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(Conflict, match="no live version"):
        begin(stocked, 1)
    with stocked.writing() as session:
        versions.promote(session, "banking", 1, by="ann")
    with pytest.raises(Conflict, match="live already"):
        begin(stocked, 1)
    with pytest.raises(NotFound):
        begin(stocked, 9)
    publish(rejected=True)
    with pytest.raises(Conflict, match="rejected"):
        begin(stocked, 2)
    assert begin(stocked, 2, force=True).version == 2
    publish()
    with pytest.raises(Conflict, match=r"a rollout of banking@2 has not ended"):
        begin(stocked, 3)
    # The database itself admits no second one.
    with pytest.raises(RegistryError), stocked.writing() as session:
        session.add(
            RolloutRecord(
                adapter="banking", version=3, champion=1, state=RolloutState.RUNNING, rules={}, salt="", stage=0,
                started_by="x", started_at=now(),
            )
        )  # fmt: skip


def test_counts_of_processes_stand_beside_each_other_and_writing_twice_changes_nothing(two: Registry) -> None:
    made = begin(two)
    for replica, n in (("a", 3), ("b", 5), ("a", 3), ("a", 7)):
        with two.writing() as session:
            rollouts.put_counts(session, made.id, replica, {"observations": n})
    with two.reading() as session:
        assert rollouts.counts(session, made.id) == [{"observations": 7}, {"observations": 5}]


def test_stages_only_grow_and_what_passed_waits(two: Registry) -> None:
    made = begin(two)
    with two.writing() as session:
        assert rollouts.advance(session, made.id, stage=2).stage == 2
        assert rollouts.advance(session, made.id, stage=1).stage == 2
        kept = rollouts.keep(session, made.id, "a person decides")
        assert (kept.state, kept.reason, kept.finished_at) == (RolloutState.PASSED, "a person decides", None)
        assert rollouts.keep(session, made.id, "again").reason == "a person decides"
        assert rollouts.active(session, "banking") == kept
    names = [kind for kind, _ in journal(two)]
    assert names == ["rollout.started", "rollout.advanced", "rollout.passed"]


def test_promotion_moves_the_pointer_and_ends_the_rollout_in_one_transaction(two: Registry) -> None:
    made = begin(two)

    def interrupted() -> None:
        with two.writing() as session:
            rollouts.promote(session, made.id, "kept", by="rollout")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        interrupted()
    with two.reading() as session:
        assert rollouts.get(session, made.id) == made
        assert versions.get_adapter(session, "banking").live == 1
    with two.writing() as session:
        ended, live = rollouts.promote(session, made.id, "kept", by="rollout")
    assert (ended.state, ended.reason, ended.finished_by) == (RolloutState.PROMOTED, "kept", "rollout")
    assert (live.number, live.state) == (2, versions.VersionState.LIVE)
    with two.writing() as session:
        assert rollouts.promote(session, made.id, "again", by="late")[0] == ended
        assert rollouts.stop(session, made.id, "late", by="late") == ended
        assert rollouts.active(session, "banking") is None
    assert journal(two) == [
        ("rollout.started", "banking@2"),
        ("version.promoted", "banking@2"),
        ("rollout.promoted", "banking@2"),
    ]
    assert begin(two, 3).champion == 2


def test_a_step_that_is_repeated_begins_one_rollout(two: Registry) -> None:
    made = begin(two, expect_live=1, once=True)
    assert begin(two, once=True) == made
    with two.writing() as session:
        ended = rollouts.stop(session, made.id, "apart", by="rollout")
    assert begin(two, once=True) == ended
    with pytest.raises(Conflict, match="version 1 of banking is live, not 3"):
        begin(two, expect_live=3)
    assert begin(two).id > made.id


def test_a_stopped_rollout_stays_stopped(two: Registry) -> None:
    made = begin(two)
    with two.writing() as session:
        ended = rollouts.stop(session, made.id, "too far apart", by="rollout")
        assert rollouts.stop(session, made.id, "again", by="late") == ended
        assert rollouts.advance(session, made.id, stage=3) == ended
        assert rollouts.reconcile(session, made.id) == ended
        with pytest.raises(Conflict, match="too far apart"):
            rollouts.promote(session, made.id, "late", by="late")
        assert versions.get_adapter(session, "banking").live == 1
        with pytest.raises(NotFound):
            rollouts.get(session, 999)


def test_whatever_went_live_meanwhile_ends_the_rollout(two: Registry) -> None:
    made = begin(two)
    with two.writing() as session:
        assert rollouts.reconcile(session, made.id) == made
        versions.promote(session, "banking", 3, by="ann")
        ended, live = rollouts.promote(session, made.id, "kept", by="rollout")
    assert (ended.state, live.number) == (RolloutState.SUPERSEDED, 3)
    assert "version 3 went live meanwhile" in str(ended.reason)
    by_hand = begin(two, 2)
    with two.writing() as session:
        versions.promote(session, "banking", 2, by="ann")
        ended = rollouts.reconcile(session, by_hand.id)
    assert (ended.state, ended.reason) == (RolloutState.PROMOTED, "it was made live by hand")


def test_racing_starts_leave_one_rollout(two: Registry, racers: Any) -> None:
    script = """
from registry import rollouts
registry = home.registry()
ready()
try:
    with registry.writing() as session:
        rollouts.start(session, "banking", 2 + number % 2, rules={}, by=str(number))
    say("started")
except errors.Conflict:
    say("refused")
"""
    assert sorted(racers.run(4, script)) == ["refused"] * 3 + ["started"]
    with two.reading() as session:
        assert len(rollouts.all_active(session)) == 1


def test_racing_decisions_are_one_and_everybody_sees_it(two: Registry, racers: Any) -> None:
    """Some replicas would promote, others stop: the first decides, and what is live agrees with it."""
    made = begin(two)
    script = f"""
from registry import rollouts
registry = home.registry()
ready()
with registry.writing() as session:
    found = rollouts.reconcile(session, {made.id})
    if not found.state.finished:
        rollouts.put_counts(session, found.id, str(number), {{"observations": number}})
        if number % 2:
            found = rollouts.stop(session, found.id, "apart", by=str(number))
        else:
            found, _ = rollouts.promote(session, found.id, "kept", by=str(number))
say(found.state.value, found.finished_by)
"""
    said = racers.run(4, script)
    assert len(set(said)) == 1
    with two.reading() as session:
        assert versions.get_adapter(session, "banking").live == (2 if said[0].startswith("promoted") else 1)
        assert len(rollouts.counts(session, made.id)) == 1
    ends = [kind for kind, _ in journal(two) if kind in ("rollout.promoted", "rollout.stopped")]
    assert len(ends) == 1


def test_a_process_killed_in_its_decision_leaves_a_rollout_that_another_decides(two: Registry, racers: Any) -> None:
    made = begin(two)
    script = f"""
import os, signal
from registry import rollouts
registry = home.registry()
with registry.writing() as session:
    rollouts.put_counts(session, {made.id}, "dead", {{"observations": 3}})
    rollouts.promote(session, {made.id}, "kept", by="dead")
    acknowledge("in the middle")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    racer = racers.start(0, script)
    assert racers.receive(racer) == {"acknowledged": "in the middle"}
    racer.wait(timeout=30)
    for pipe in (racer.stdin, racer.stdout):
        pipe.close()
    with two.writing() as session:
        assert rollouts.reconcile(session, made.id) == made
        assert rollouts.counts(session, made.id) == []
        assert rollouts.promote(session, made.id, "kept", by="next")[0].finished_by == "next"
