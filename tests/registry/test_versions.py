"""Publishing, promoting, rolling back: one live version, each move with its event, also when processes race."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import backbones, versions
from registry.errors import Conflict, InvalidName, NotFound
from registry.registry import Registry
from registry.tables import EventRecord
from registry.versions import VersionState

BACKBONE = "b" * 64
Publish = Callable[..., versions.Version]


def _journal(session: Session) -> list[EventRecord]:
    return list(session.scalars(select(EventRecord).order_by(EventRecord.id)))


def _promote(registry: Registry, number: int, **how: Any) -> versions.Version:
    with registry.writing() as session:
        return versions.promote(session, "banking", number, by="test", **how)


def _states(registry: Registry) -> dict[int, str]:
    with registry.reading() as session:
        return {version.number: version.state.value for version in versions.history(session, "banking")}


def test_a_job_publishes_once_and_numbers_rise(stocked: Registry, publish: Publish) -> None:
    first, again, second = publish(job_id="job_1"), publish(job_id="job_1"), publish(job_id="job_2")
    assert first == again
    assert (first.name, second.name) == ("banking@1", "banking@2")
    assert first.state is VersionState.CANDIDATE
    assert first.created_at.utcoffset() is not None
    with stocked.reading() as session:
        assert versions.by_job(session, "job_2") == second
        assert [version.number for version in versions.history(session, "banking")] == [2, 1]
        told = [event.subject for event in _journal(session) if event.kind == "version.published"]
        assert told == ["banking@1", "banking@2"]
        assert versions.live(session, "banking") is None
        assert versions.get_adapter(session, "banking").live is None


def test_promote_retires_the_one_before_and_is_repeatable(stocked: Registry, publish: Publish) -> None:
    publish(), publish()
    _promote(stocked, 1, expect_live=None)
    promoted = _promote(stocked, 2, expect_live=1)
    assert promoted.promoted_at is not None
    # Asked again, nothing changes and nothing is told twice; an expectation that no longer holds is refused.
    assert _promote(stocked, 2, expect_live=2) == promoted
    assert _promote(stocked, 2) == promoted
    for expected in (1, None):
        with pytest.raises(Conflict, match="somebody else moved it"):
            _promote(stocked, 2, expect_live=expected)
    assert _states(stocked) == {1: "retired", 2: "live"}
    with stocked.reading() as session:
        told = [(event.subject, event.detail) for event in _journal(session) if event.kind == "version.promoted"]
        assert told == [
            ("banking@1", {"before": None, "forced": False}),
            ("banking@2", {"before": 1, "forced": False}),
        ]
        assert [adapter.live for adapter in versions.all_adapters(session)] == [2]


def test_promote_refuses_the_rejected_and_the_surprised(stocked: Registry, publish: Publish) -> None:
    publish(), publish(rejected=True)
    with pytest.raises(Conflict, match="rejected by the gate"):
        _promote(stocked, 2)
    with pytest.raises(Conflict, match="somebody else moved it"):
        _promote(stocked, 1, expect_live=2)
    for number in (3, 0, -1, 2**40):
        with pytest.raises(NotFound):
            _promote(stocked, number)
    assert _states(stocked) == {1: "candidate", 2: "rejected"}
    assert _promote(stocked, 2, force=True).state is VersionState.LIVE


def test_rollback_goes_back_promotion_by_promotion(stocked: Registry, publish: Publish) -> None:
    for number in (1, 2, 3):
        publish()
        _promote(stocked, number)

    def rollback() -> int:
        with stocked.writing() as session:
            return versions.rollback(session, "banking", by="test").number

    assert rollback() == 2
    assert rollback() == 1
    with pytest.raises(Conflict, match="no version of banking was live before"):
        rollback()
    assert _states(stocked) == {1: "live", 2: "retired", 3: "retired"}
    _promote(stocked, 3)
    assert rollback() == 1


def test_names_belong_to_one_thing(stocked: Registry) -> None:
    manifest = {"name": "Banking", "dimension": 3, "max_tokens": 8, "source": "test"}
    with stocked.writing() as session:
        with pytest.raises(Conflict, match="belongs to an adapter"):
            backbones.add(session, manifest, "c" * 64)
        with pytest.raises(Conflict, match="belongs to a backbone"):
            versions.ensure_adapter(session, "minilm", BACKBONE)
        with pytest.raises(Conflict, match="another digest"):
            backbones.add(session, manifest | {"name": "minilm"}, "c" * 64)
        other = backbones.add(session, manifest | {"name": "other"}, "c" * 64)
        assert backbones.add(session, manifest | {"name": "other"}, "c" * 64) == other
        with pytest.raises(Conflict, match="another backbone"):
            versions.ensure_adapter(session, "banking", other.digest)
        with pytest.raises(NotFound):
            versions.ensure_adapter(session, "new", "e" * 64)
        for name in ("Upper", "", "a" * 65, "../x", "a@1", "ä", "a\n", "-a"):
            with pytest.raises(InvalidName):
                versions.ensure_adapter(session, name, BACKBONE)
        default = backbones.default(session)
        assert default is not None
        assert default.name == "MiniLM"
        assert [backbone.name for backbone in backbones.all(session)] == ["MiniLM", "other"]


@pytest.mark.parametrize("name", ["\x00", "a\x00b", "\ud800", "x" * 10_000, "", "ü", "nobody"])
def test_any_string_may_be_asked_for(registry: Registry, name: str) -> None:
    with registry.reading() as session:
        for get in (versions.get_adapter, versions.history):
            with pytest.raises(NotFound) as caught:
                get(session, name)
            assert len(str(caught.value)) < 200
        assert versions.live(session, name) is None


def test_racing_promotions_have_one_winner(stocked: Registry, publish: Publish, racers: Any) -> None:
    for _ in range(4):
        publish()
    printed = racers.run(
        4,
        """
registry = home.registry()
ready()
try:
    with registry.writing() as session:
        versions.promote(session, "banking", number + 1, by=str(number), expect_live=None)
    say("won")
except errors.Conflict:
    say("lost")
""",
    )
    assert sorted(printed) == ["lost", "lost", "lost", "won"]
    states = _states(stocked)
    assert sorted(states.values()) == ["candidate", "candidate", "candidate", "live"]
    assert states[printed.index("won") + 1] == "live"
    with stocked.reading() as session:
        assert session.scalars(select(EventRecord.kind)).all().count("version.promoted") == 1


def test_racing_moves_leave_one_live_version_and_a_true_journal(
    stocked: Registry, publish: Publish, racers: Any
) -> None:
    for number in (1, 2, 3):
        publish()
        _promote(stocked, number)
    racers.run(
        4,
        """
registry = home.registry()
ready()
for turn in range(12):
    try:
        with registry.writing() as session:
            if (turn + number) % 3:
                versions.promote(session, "banking", 1 + (turn * number) % 3, by="racer")
            else:
                versions.rollback(session, "banking", by="racer")
    except errors.Conflict:
        pass
""",
    )
    with stocked.reading() as session:
        live = versions.live(session, "banking")
        moves = [event for event in _journal(session) if event.kind in ("version.promoted", "version.rolled_back")]
    assert live is not None
    assert list(_states(stocked).values()).count("live") == 1
    # Each move names what was live before it: the journal is one unbroken chain that ends at the live version.
    at = None
    for move in moves:
        assert move.detail["before"] == at
        at = int(move.subject.partition("@")[2])
    assert at == live.number


def test_racing_publications_of_one_job_are_one_version(stocked: Registry, racers: Any) -> None:
    script = """
registry = home.registry()
ready()
with registry.writing() as session:
    version = versions.publish(session, adapter="banking", digest="d" * 64, kind="head", backbone="b" * 64,
        reference=None, parent=None, job_id=JOB, dataset="support@1", metrics={}, verdict=None, rejected=False)
say(version.number)
"""
    assert racers.run(4, script.replace("JOB", "'job_same'")) == ["1"] * 4
    assert sorted(racers.run(4, script.replace("JOB", "f'job_{number}'"))) == ["2", "3", "4", "5"]


def test_any_sequence_of_moves_agrees_with_a_plain_stack(stocked: Registry) -> None:
    """Hypothesis plays moves against the registry and against a list; what is live must always agree."""
    adapters = iter(range(10**6))

    class Moves(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.name = f"adapter-{next(adapters)}"
            self.rejected: list[bool] = []
            self.stack: list[int] = []
            with stocked.writing() as session:
                versions.ensure_adapter(session, self.name, BACKBONE)

        @rule(rejected=st.booleans())
        def publish(self, rejected: bool) -> None:
            with stocked.writing() as session:
                version = versions.publish(
                    session,
                    adapter=self.name,
                    digest="d" * 64,
                    kind="head",
                    backbone=BACKBONE,
                    reference=None,
                    parent=None,
                    job_id=None,
                    dataset="support@1",
                    metrics={},
                    verdict=None,
                    rejected=rejected,
                )
            self.rejected.append(rejected)
            assert version.number == len(self.rejected)

        @rule(number=st.integers(1, 6), force=st.booleans())
        def promote(self, number: int, force: bool) -> None:
            known = number <= len(self.rejected)
            was_live = self.stack[-1:] == [number]
            # A rejected version that was once forced live is retired afterwards, no longer rejected.
            allowed = known and (force or was_live or not self.rejected[number - 1])
            try:
                with stocked.writing() as session:
                    versions.promote(session, self.name, number, by="machine", force=force)
            except (NotFound, Conflict):
                assert not allowed
                return
            assert allowed
            self.rejected[number - 1] = False
            if not was_live:
                self.stack.append(number)

        @rule()
        def rollback(self) -> None:
            try:
                with stocked.writing() as session:
                    version = versions.rollback(session, self.name, by="machine")
            except Conflict:
                assert len(self.stack) < 2
                return
            self.stack.pop()
            assert version.number == self.stack[-1]

        @invariant()
        def the_same_version_is_live(self) -> None:
            with stocked.reading() as session:
                live = versions.live(session, self.name)
                states = [version.state for version in versions.history(session, self.name)]
            assert (live.number if live else None) == (self.stack[-1] if self.stack else None)
            assert states.count(VersionState.LIVE) == bool(self.stack)
            assert states.count(VersionState.REJECTED) == sum(self.rejected)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Moves,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
