"""Retained texts: kept only as long as said, found by nobody afterwards, on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from registry import keys, retained
from registry.keys import Scope
from registry.registry import Registry
from registry.retained import Sent
from registry.tables import EventRecord
from registry.versions import Version

SECRET = "the quick brown secret jumps over the lazy dog"


@pytest.fixture
def key(stocked: Registry, publish: Callable[..., Version]) -> str:
    publish()
    with stocked.writing() as session:
        return keys.issue(session, "app", [Scope.EMBED], retain_days=30)[0].id


def sent(key: str, words: str, *, age: float = 0.0, days: float = 30.0) -> Sent:
    at = datetime.now(UTC) - timedelta(days=age)
    return Sent(key, words, words.encode()[:8], at, at + timedelta(days=days))


def add(registry: Registry, *texts: Sent, keep: int = 1000) -> None:
    with registry.writing() as session:
        retained.add(session, "banking", 1, texts, keep=keep)


def words(registry: Registry, limit: int = 100) -> list[str]:
    with registry.reading() as session:
        return [kept.text for kept in retained.newest(session, "banking", limit=limit)]


def test_a_key_says_for_how_long_and_can_take_it_back(stocked: Registry) -> None:
    with stocked.writing() as session:
        plain, _ = keys.issue(session, "plain", [Scope.EMBED])
        keeping, _ = keys.issue(session, "keeping", [Scope.EMBED], retain_days=7)
        for days in (0, -1, keys.MAX_RETAIN_DAYS + 1):
            with pytest.raises(ValueError, match="days"):
                keys.issue(session, "x", [Scope.EMBED], retain_days=days)
            with pytest.raises(ValueError, match="days"):
                keys.retain(session, plain.id, days)
    assert (plain.retain_days, keeping.retain_days) == (None, 7)
    with stocked.writing() as session:
        assert keys.retain(session, plain.id, 3, by="ann").retain_days == 3
        assert keys.retain(session, keeping.id, None, by="ann").retain_days is None
    with stocked.reading() as session:
        assert [k.retain_days for k in keys.all(session)] == [3, None]
        told = session.scalars(select(EventRecord).where(EventRecord.kind == "key.retention")).all()
    assert [(event.actor, event.detail["retain_days"]) for event in told] == [("ann", 3), ("ann", None)]


def test_newest_first_and_a_repeated_text_is_counted_not_doubled(stocked: Registry, key: str) -> None:
    add(stocked, sent(key, "old", age=2), sent(key, "new"), sent(key, "older", age=3))
    assert words(stocked) == ["new", "old", "older"]
    add(stocked, sent(key, "older"), sent(key, "older"))
    assert words(stocked) == ["older", "new", "old"]
    with stocked.reading() as session:
        first = retained.newest(session, "banking", 1, limit=1)[0]
        assert (first.seen, first.key, first.vector, first.adapter) == (3, key, b"older", "banking")
        assert retained.count(session, "banking") == retained.count(session, "banking", 1) == 3
        assert retained.newest(session, "banking", 2, limit=5) == []
        assert retained.newest(session, "bad\x00name", limit=5) == []


def test_only_so_many_are_kept_and_the_oldest_go(stocked: Registry, key: str) -> None:
    add(stocked, *(sent(key, f"text {n}", age=n) for n in range(10)), keep=4)
    assert words(stocked) == ["text 0", "text 1", "text 2", "text 3"]


def test_what_has_expired_is_not_shown_even_before_it_is_deleted(stocked: Registry, key: str) -> None:
    add(stocked, sent(key, "gone", age=8, days=7), sent(key, "stays", age=6, days=7))
    assert words(stocked) == ["stays"]
    with stocked.writing() as session:
        assert retained.count(session) == 2
        assert retained.expire(session) == 1
        assert retained.count(session) == 1


def test_a_purge_takes_an_adapter_s_or_a_key_s_and_says_so(stocked: Registry, key: str) -> None:
    with stocked.writing() as session:
        other, _ = keys.issue(session, "other", [Scope.EMBED], retain_days=30)
    add(stocked, sent(key, "a"), sent(key, "b"), sent(other.id, "a"))
    with stocked.writing() as session:
        with pytest.raises(ValueError, match="must be named"):
            retained.purge(session)
        assert retained.purge(session, adapter="nothing") == retained.purge(session, key="\x00") == 0
        assert retained.purge(session, adapter="banking", key=other.id, by="ann") == 1
    assert sorted(words(stocked)) == ["a", "b"]
    with stocked.writing() as session:
        assert retained.purge(session, adapter="banking", by="ann") == 2
        event = session.scalars(select(EventRecord).order_by(EventRecord.id.desc()).limit(1)).one()
    assert (event.kind, event.subject, event.actor, event.detail["texts"]) == ("texts.purged", "banking", "ann", 2)
    assert words(stocked) == []


def test_a_purged_text_is_nowhere_in_the_database_s_files(stocked: Registry, key: str) -> None:
    add(stocked, *(sent(key, f"{SECRET} {n}") for n in range(300)))
    with stocked.writing() as session:
        assert retained.purge(session, adapter="banking") == 300
        for table in ("retained", "events"):
            for row in session.execute(text(f"SELECT * FROM {table}")):
                assert SECRET not in str(row)
    stocked.database.scrub(retained.TABLE)
    if stocked.database.dialect != "sqlite":
        with stocked.reading() as session:
            assert session.scalar(text("SELECT pg_relation_size('retained')")) == 0
        return
    with stocked.reading() as session:
        file = Path(next(row[2] for row in session.execute(text("PRAGMA database_list")) if row[1] == "main"))
    files = list(file.parent.glob("registry.sqlite*"))
    assert file in files
    for one in files:
        assert SECRET.encode() not in one.read_bytes(), one.name


def test_texts_that_no_dataset_may_hold_are_not_kept() -> None:
    assert retained.storable_text("two\nlines, and an emoji \U0001f600")
    for bad in ("", "  \n", "nul\x00", "half a pair \ud800", "x" * 100_001):
        assert not retained.storable_text(bad)
