"""API keys: shown once, kept as a digest, limited to scopes.

A secret reads `dl_<id>_<37 random characters><6 check characters>`. The random part carries 220 bits, so a plain
SHA-256 of the secret cannot be searched; the check characters (CRC-32, base 62) turn a typing error away without a
look-up.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry import events
from registry.clean import clean
from registry.errors import NotFound
from registry.names import storable
from registry.tables import KeyRecord, now

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID = string.digits + string.ascii_lowercase
_SECRET = re.compile(r"dl_([0-9a-z]{8})_([0-9A-Za-z]{37})([0-9A-Za-z]{6})")
# Compared with when there is no such key, so that its absence takes as long as a wrong secret.
_NOBODY = "0" * 64
MAX_RETAIN_DAYS = 365
"""Longest time that texts sent with a key may be kept."""


class Scope(StrEnum):
    """What a key may do."""

    EMBED = "embed"
    """Ask for embeddings, similarities and neighbours."""
    READ = "read"
    """See models, jobs, drift."""
    TRAIN = "train"
    """Upload datasets, ask for retrains."""
    ADMIN = "admin"
    """Everything, keys included."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret."""

    id: str
    name: str
    scopes: frozenset[Scope]
    last4: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    retain_days: int | None = None
    """How many days texts sent with the key are kept; None keeps none."""

    def allows(self, scope: Scope) -> bool:
        """Whether the key has the scope; admin has them all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def valid(self, at: datetime) -> bool:
        """Whether the key is neither revoked nor expired at a moment."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True)
class KeyTable:
    """All keys in memory, for checking requests without the database; take a new one to see changes."""

    entries: Mapping[str, tuple[str, Key]]

    def check(self, secret: str) -> Key | None:
        """The key of a secret, None when it is malformed, unknown, revoked or expired."""
        match = _match(secret)
        if match is None:
            return None
        digest, key = self.entries.get(match, (_NOBODY, None))
        same = hmac.compare_digest(_digest(secret), digest)
        return key if same and key is not None and key.valid(now()) else None


def new_secret() -> str:
    """A fresh secret that belongs to no key yet; `issue` makes it one."""
    key_id = "".join(secrets.choice(_ID) for _ in range(8))
    body = "".join(secrets.choice(_ALPHABET) for _ in range(37))
    return f"dl_{key_id}_{body}{_check_characters(key_id, body)}"


def issue(
    session: Session,
    name: str,
    scopes: Iterable[Scope],
    expires_at: datetime | None = None,
    *,
    secret: str | None = None,
    retain_days: int | None = None,
    by: str = "system",
) -> tuple[Key, str]:
    """Make a key; the second value is its secret, which cannot be had again.

    With a `secret` of `new_secret` the key gets that one; issuing the same secret again changes nothing. Raises
    ValueError without any scope, for an `expires_at` without a zone, for a secret that is malformed or that another
    key's id stands in, or for `retain_days` outside 1 to MAX_RETAIN_DAYS.
    """
    granted = frozenset(Scope(scope) for scope in scopes)
    if not granted:
        raise ValueError("a key needs at least one scope")
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError("the time a key expires needs a zone")
    _check_days(retain_days)
    secret = new_secret() if secret is None else secret
    key_id = _match(secret)
    if key_id is None:
        raise ValueError("a secret is what new_secret makes")
    known = session.get(KeyRecord, key_id)
    if known is not None:
        if not hmac.compare_digest(known.digest, _digest(secret)):
            raise ValueError("the secret's id belongs to another key")
        return _key(known), secret
    row = KeyRecord(
        id=key_id,
        name=clean(name),
        digest=_digest(secret),
        scopes=sorted(granted),
        last4=secret[-4:],
        created_at=now(),
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
        retain_days=retain_days,
    )
    session.add(row)
    session.flush()
    events.record(session, "key.issued", key_id, by, {"scopes": sorted(granted), **_retains(retain_days)})
    return _key(row), secret


def verifier(session: Session) -> KeyTable:
    """All keys as a table that works without the database."""
    return KeyTable({row.id: (row.digest, _key(row)) for row in session.scalars(select(KeyRecord))})


def revoke(session: Session, key_id: str, *, by: str = "system") -> Key:
    """End a key at once; ending it again changes nothing. Raises NotFound."""
    row = session.get(KeyRecord, key_id) if storable(key_id) else None
    if row is None:
        raise NotFound("key", key_id)
    if row.revoked_at is None:
        row.revoked_at = now()
        session.flush()
        events.record(session, "key.revoked", key_id, by)
    return _key(row)


def retain(session: Session, key_id: str, days: int | None, *, by: str = "system") -> Key:
    """Keep texts sent with a key for so many days from now on, or (None) no longer: what was kept is another matter.

    Raises NotFound, and ValueError for days outside 1 to MAX_RETAIN_DAYS.
    """
    _check_days(days)
    row = session.get(KeyRecord, key_id) if storable(key_id) else None
    if row is None:
        raise NotFound("key", key_id)
    if row.retain_days != days:
        row.retain_days = days
        session.flush()
        events.record(session, "key.retention", key_id, by, {"retain_days": days})
    return _key(row)


def touch(session: Session, used: Mapping[str, datetime]) -> None:
    """Note when keys (by id) were last used; meant for batches, not for every request."""
    for key_id, at in used.items():
        session.execute(update(KeyRecord).where(KeyRecord.id == key_id).values(last_used_at=at))


def all(session: Session) -> list[Key]:
    """Every key, revoked ones included, oldest first."""
    return [_key(row) for row in session.scalars(select(KeyRecord).order_by(KeyRecord.created_at, KeyRecord.id))]


def any_issued(session: Session) -> bool:
    """Whether a key that was not revoked exists, expired ones included: then the service asks for one."""
    return session.scalar(select(KeyRecord.id).where(KeyRecord.revoked_at.is_(None)).limit(1)) is not None


def _match(secret: str) -> str | None:
    """The id inside a well-formed secret."""
    match = _SECRET.fullmatch(secret)
    if match is None or _check_characters(match[1], match[2]) != match[3]:
        return None
    return match[1]


def _check_characters(key_id: str, body: str) -> str:
    number = zlib.crc32(f"{key_id}{body}".encode())
    characters = []
    for _ in range(6):
        number, digit = divmod(number, 62)
        characters.append(_ALPHABET[digit])
    return "".join(reversed(characters))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _check_days(days: int | None) -> None:
    if days is not None and not 1 <= days <= MAX_RETAIN_DAYS:
        raise ValueError(f"texts are kept for 1 to {MAX_RETAIN_DAYS} days")


def _retains(days: int | None) -> dict[str, int]:
    return {} if days is None else {"retain_days": days}


def _key(row: KeyRecord) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        last4=row.last4,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        retain_days=row.retain_days,
    )
