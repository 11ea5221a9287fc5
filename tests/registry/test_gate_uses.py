"""Verdicts on the same rows are counted, on both databases: once each, whoever asked, and from half the rows on."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import select

from registry import gate_uses
from registry.gate_uses import KEPT, GateSet
from registry.registry import Registry
from registry.tables import EventRecord


def rows(first: int, last: int) -> GateSet:
    """A small set of numbered rows, kept whole."""
    return GateSet.of(f"rows {first} to {last}", range(first, last))


def claim(registry: Registry, gate_set: GateSet, key: str, subject: str = "desk@1") -> int:
    with registry.writing() as session:
        return gate_uses.claim(session, gate_set, key=key, subject=subject, by=key)


def entered(registry: Registry) -> list[EventRecord]:
    with registry.reading() as session:
        found = session.scalars(select(EventRecord).where(EventRecord.kind == gate_uses.KIND).order_by(EventRecord.id))
        return list(found)


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ((0, 60), (30, 90), 0.5),
        ((0, 60), (31, 91), 29 / 60),
        ((0, 60), (60, 120), 0.0),
        ((0, 40), (0, 120), 1.0),
        ((0, 120), (0, 40), 1 / 3),
        ((0, 60), (0, 60), 1.0),
    ],
)
def test_the_share_of_sets_that_are_kept_whole_is_exact(
    ours: tuple[int, int], theirs: tuple[int, int], share: float
) -> None:
    assert rows(*ours).share_of(rows(*theirs)) == pytest.approx(share, abs=1e-12)


def test_a_set_is_its_distinct_rows_and_has_some() -> None:
    assert GateSet.of("x", [3, 1, 3, 2**64 - 1]) == GateSet("x", 3, (f"{1:016x}", f"{3:016x}", "f" * 16))
    with pytest.raises(ValueError, match="at least one row"):
        GateSet.of("x", [])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_share_of_large_sets_is_estimated_as_closely_as_stated(share: float) -> None:
    """2,000 rows against 3,000: the mean of forty estimates is right, and single ones lie within 0.15."""
    rng = np.random.default_rng(int(100 * share))
    estimates = []
    for _ in range(40):
        drawn = [int(mark) for mark in rng.integers(0, 2**64, 5_000, dtype=np.uint64)]
        common = int(2_000 * share)
        ours, theirs = drawn[:2_000], [*drawn[:common], *drawn[2_000 : 5_000 - common]]
        kept = GateSet.of("ours", ours)
        assert len(kept.marks) == KEPT
        estimates.append(kept.share_of(GateSet.of("theirs", theirs)))
    assert np.mean(estimates) == pytest.approx(share, abs=0.03)
    assert np.abs(np.array(estimates) - share).max() <= 0.2


def test_every_verdict_counts_and_a_repeated_question_does_not(registry: Registry) -> None:
    assert claim(registry, rows(0, 60), "job 1") == 1
    assert claim(registry, rows(0, 60), "job 1") == 1
    assert claim(registry, rows(0, 60), "job 2") == 2
    assert claim(registry, rows(0, 60), "job 1") == 1, "still the use it was"
    assert claim(registry, rows(0, 60), "job 3", subject="another dataset@4") == 3, "whatever it was for"
    with registry.reading() as session:
        assert gate_uses.uses(session, rows(0, 60)) == 3
        assert gate_uses.uses(session, rows(200, 260)) == 0
    found = entered(registry)
    assert [(event.detail["key"], event.detail["use"]) for event in found] == [("job 1", 1), ("job 2", 2), ("job 3", 3)]
    assert [event.subject for event in found] == ["desk@1", "desk@1", "another dataset@4"]


def test_rows_are_used_from_the_half_on(registry: Registry) -> None:
    assert claim(registry, rows(0, 60), "job 1") == 1
    assert claim(registry, rows(31, 91), "job 2") == 1, "29 of 60 were judged on"
    assert claim(registry, rows(30, 90), "job 3") == 3, "half of them, and nearly all of the second"
    assert claim(registry, rows(0, 40), "job 4") == 2, "all of the first, 9 of the second, 10 of the third"
    # The same job on other rows asks something new: 60, 30, 31 and 40 of these 61 were judged on.
    assert claim(registry, rows(0, 61), "job 1") == 4


def test_a_claim_that_is_rolled_back_was_never_made(registry: Registry) -> None:
    def broken() -> None:
        with registry.writing() as session:
            assert gate_uses.claim(session, rows(0, 60), key="job 1", subject="desk@1", by="job 1") == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert entered(registry) == []
    assert claim(registry, rows(0, 60), "job 2") == 1


def test_verdicts_at_one_time_are_counted_one_by_one(registry: Registry) -> None:
    with ThreadPoolExecutor(4) as pool:
        counted = list(pool.map(lambda job: claim(registry, rows(0, 60), f"job {job}"), range(12)))
    assert sorted(counted) == list(range(1, 13))


def test_what_is_entered_holds_marks_and_no_more(registry: Registry) -> None:
    claim(registry, GateSet.of("d" * 64, range(500)), "job 1")
    (event,) = entered(registry)
    assert set(event.detail) == {"key", "set", "rows", "marks", "use"}
    assert event.detail["rows"] == 500
    assert event.detail["marks"] == [f"{mark:016x}" for mark in range(KEPT)]
