"""The transaction in which counts add up and the rules act: who may go live alone, and what is repeated or late."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring.errors import StateRefused
from monitoring.rollout_rules import Rules
from monitoring.rollouts import latest, settle
from monitoring.tally import UNIT, Tally
from registry import backbones, datasets, jobs, rollouts, versions
from registry.errors import NotFound
from registry.home import Home
from registry.registry import Registry
from registry.rollouts import RolloutState

BACKBONE = "b" * 64
GOOD = Tally(observations=60, rows_n=60, rows=6 * UNIT, votes_n=60, attempts=60, timed=60)
CSV = b"text,label\nwhere is my card,card\nmy card has not come,card\nI lost my PIN,pin\nreset the PIN please,pin\n"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Version 1 of `banking` is live."""
    registry = Home.at(tmp_path).registry()
    with registry.writing() as session:
        backbones.add(session, {"name": "MiniLM", "dimension": 384, "max_tokens": 256, "source": "test"}, BACKBONE)
        versions.ensure_adapter(session, "banking", BACKBONE)
        datasets.add(session, registry.artifacts, "support", CSV, "csv")
        datasets.add(session, registry.artifacts, "plain", b"text\nwhere is my card\nI lost my PIN\n", "csv")
        _publish(session)
        versions.promote(session, "banking", 1, by="test")
    yield registry
    registry.close()


def _publish(session: Any, outcome: str = "pass", job_id: str | None = None) -> versions.Version:
    return versions.publish(
        session, adapter="banking", digest="d" * 64, kind="head", backbone=BACKBONE, reference=None, parent=None,
        job_id=job_id, dataset="support@1", metrics={}, verdict={"outcome": outcome}, rejected=False,
    )  # fmt: skip


@pytest.fixture
def begin(registry: Registry) -> Callable[..., int]:
    """Publish a candidate and begin its rollout; gives the rollout's id."""

    def begin(outcome: str = "pass", job_id: str | None = None, **rules: Any) -> int:
        checked = Rules.from_mapping({"min_observations": 50, **rules})
        with registry.writing() as session:
            version = _publish(session, outcome, job_id)
            return rollouts.start(session, "banking", version.number, rules=checked.to_dict(), by="ann").id

    return begin


def live(registry: Registry) -> int | None:
    with registry.reading() as session:
        return versions.get_adapter(session, "banking").live


def test_what_processes_counted_is_added_up_and_repeating_a_write_adds_nothing(
    registry: Registry, begin: Callable[..., int]
) -> None:
    rollout = begin(min_observations=100)
    for _ in range(3):
        assert settle(registry, rollout, "a", GOOD).tally == GOOD
    standing = settle(registry, rollout, "b", Tally(observations=30, rows_n=30, attempts=30))
    assert (standing.tally.observations, standing.replicas) == (90, 2)
    assert standing.rollout.state is RolloutState.RUNNING
    assert standing.judgement.missing == ("10 more compared requests",)
    assert latest(registry, "banking").tally == standing.tally
    ended = settle(registry, rollout, "b", GOOD)
    assert (ended.rollout.state, live(registry)) == (RolloutState.PROMOTED, 2)
    late = settle(registry, rollout, "a", GOOD + GOOD)  # has counted on, and finds it decided
    assert (late.rollout.state, late.tally) == (RolloutState.PROMOTED, GOOD + GOOD)


@pytest.mark.parametrize(
    ("outcome", "dataset", "recipe", "why"),
    [
        ("inconclusive", "support", {}, "the gate's verdict is inconclusive"),
        ("pass", "support", {"gate": {"min_effect": 0.0}}, "laxer than the default in min_effect"),
        ("pass", "support", {"gate": {"of tomorrow": 1}}, "the gate of its retrain cannot be read"),
        ("pass", "plain", {}, "without labels or pairs"),
        ("pass", "support", {}, None),
    ],
)
def test_only_what_passed_the_whole_gate_goes_live_alone(
    registry: Registry,
    begin: Callable[..., int],
    outcome: str,
    dataset: str,
    recipe: dict[str, Any],
    why: str | None,
) -> None:
    with registry.writing() as session:
        job = jobs.enqueue(session, adapter="banking", dataset=dataset, recipe=recipe, requested_by="test")
    found = settle(registry, begin(outcome, job.id), "a", GOOD).rollout
    if why is None:
        assert (found.state, live(registry)) == (RolloutState.PROMOTED, 2)
        return
    assert (found.state, live(registry)) == (RolloutState.PASSED, 1)
    assert why in str(found.reason)


def test_what_waits_for_a_person_is_still_stopped_when_it_turns_bad_and_never_by_time(
    registry: Registry, begin: Callable[..., int]
) -> None:
    rollout = begin(on_success="hold", duration_s=60)
    assert settle(registry, rollout, "a", GOOD).rollout.state is RolloutState.PASSED
    in_a_year = lambda: datetime.now(UTC) + timedelta(days=365)  # noqa: E731
    more = GOOD + Tally(observations=20, rows_n=20, rows=14 * UNIT)
    assert settle(registry, rollout, "a", more, in_a_year).rollout.state is RolloutState.PASSED
    bad = GOOD + Tally(observations=900, rows_n=900, rows=900 * UNIT)
    stopped = settle(registry, rollout, "a", bad, in_a_year).rollout
    assert (stopped.state, live(registry)) == (RolloutState.STOPPED, 1)
    assert "disagreement of the nearest items" in str(stopped.reason)


def test_the_time_is_measured_from_the_start(registry: Registry, begin: Callable[..., int]) -> None:
    rollout = begin(duration_s=3600)
    few = Tally(observations=3, rows_n=3, attempts=3)
    soon, late = (lambda h=h: datetime.now(UTC) + timedelta(hours=h) for h in (0.9, 1.1))
    assert settle(registry, rollout, "a", few, soon).rollout.state is RolloutState.RUNNING
    ended = settle(registry, rollout, "a", few, late).rollout
    assert ended.state is RolloutState.STOPPED
    assert str(ended.reason).startswith("the time is over: 47 more compared requests; ")


def test_a_stage_is_reached_once(registry: Registry, begin: Callable[..., int]) -> None:
    rollout = begin(mode="canary", stages=[0.1, 0.5])
    first = settle(registry, rollout, "a", GOOD)
    assert (first.rollout.stage, first.to_json()["share"]) == (1, 0.5)
    assert settle(registry, rollout, "b", Tally()).rollout.stage == 1
    assert settle(registry, rollout, "a", GOOD + GOOD).rollout.state is RolloutState.PROMOTED


def test_another_live_version_is_seen_before_anything_is_counted(registry: Registry, begin: Callable[..., int]) -> None:
    rollout = begin()
    with registry.writing() as session:
        other = _publish(session)
        versions.promote(session, "banking", other.number, by="ann")
    found = settle(registry, rollout, "a", GOOD)
    assert (found.rollout.state, found.replicas) == (RolloutState.SUPERSEDED, 0)
    assert live(registry) == other.number


def test_damaged_counts_decide_nothing(registry: Registry, begin: Callable[..., int]) -> None:
    rollout = begin()
    with registry.writing() as session:
        rollouts.put_counts(session, rollout, "broken", {"observations": -5})
    with pytest.raises(StateRefused):
        settle(registry, rollout, "a", GOOD)
    assert live(registry) == 1
    with pytest.raises(NotFound):
        latest(registry, "nothing")
