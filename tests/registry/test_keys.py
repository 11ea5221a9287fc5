"""Keys: shown once, kept as a digest, refused when anything about them is wrong."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from registry import keys
from registry.errors import NotFound
from registry.keys import KeyTable, Scope
from registry.registry import Registry
from registry.tables import EventRecord


def test_a_key_is_known_by_its_secret_alone(registry: Registry) -> None:
    with registry.writing() as session:
        assert not keys.any_issued(session)
        key, secret = keys.issue(session, "search team", [Scope.EMBED, Scope.READ])
        other, other_secret = keys.issue(session, "operator", [Scope.ADMIN])
    assert secret.startswith(f"dl_{key.id}_")
    assert secret.endswith(key.last4)
    with registry.reading() as session:
        table = keys.verifier(session)
        assert table.check(secret) == key
        assert keys.all(session) == [key, other]
        assert keys.any_issued(session)
        # The two secrets' parts do not make a third.
        mixed = secret[:12] + other_secret[12:]
        for wrong in ("", secret[:-1], secret + "x", secret.upper(), "dl_", mixed, f"{secret}\n", "\x00", "é\ud800"):
            assert table.check(wrong) is None
    assert (key.allows(Scope.EMBED), key.allows(Scope.TRAIN)) == (True, False)
    assert all(other.allows(scope) for scope in Scope)


def test_the_secret_is_nowhere_in_the_database(registry: Registry) -> None:
    with registry.writing() as session:
        _, secret = keys.issue(session, "k", ["embed"])  # type: ignore[list-item]
    with registry.reading() as session:
        for table in ("keys", "events"):
            for row in session.execute(text(f"SELECT * FROM {table}")):
                assert secret not in str(row)
                assert secret[12:49] not in str(row)
        (event,) = session.scalars(select(EventRecord).order_by(EventRecord.id))
        assert event.detail == {"scopes": ["embed"]}


def test_revoked_and_expired_keys_are_refused(registry: Registry) -> None:
    now = datetime.now(UTC)
    with registry.writing() as session:
        revoked, revoked_secret = keys.issue(session, "a", [Scope.EMBED])
        _, expired_secret = keys.issue(session, "b", [Scope.EMBED], now - timedelta(seconds=1))
        lasting, lasting_secret = keys.issue(session, "c", [Scope.EMBED], now + timedelta(hours=1))
        keys.revoke(session, revoked.id)
        again = keys.revoke(session, revoked.id)
        keys.touch(session, {lasting.id: now, "unknown": now})
        with pytest.raises(NotFound):
            keys.revoke(session, "\x00")
        with pytest.raises(ValueError):
            keys.issue(session, "none", [])
        with pytest.raises(ValueError, match="zone"):
            keys.issue(session, "naive", [Scope.EMBED], datetime(2030, 1, 1))
    with registry.reading() as session:
        table = keys.verifier(session)
        assert [table.check(secret) is not None for secret in (revoked_secret, expired_secret, lasting_secret)] == [
            False,
            False,
            True,
        ]
        assert again.revoked_at is not None
        kept = table.check(lasting_secret)
        assert kept is not None
        assert kept.last_used_at == now
        assert session.scalars(select(EventRecord.kind)).all().count("key.revoked") == 1


@given(st.text(max_size=80))
def test_no_text_is_a_key_by_chance(secret: str) -> None:
    assert KeyTable({}).check(secret) is None
