"""Texts kept for a while, of callers whose key says so, with the vectors they got: what examples are drawn from.

Nothing is kept unless a key has `retain_days`. A text stays until that many days after it was last sent, until newer
ones need its place, or until it is purged, and no other table holds it. What is deleted is overwritten: SQLite zeroes
it in its pages, and `Database.scrub` ends the traces in its log, or rewrites PostgreSQL's table. Backups are beyond
this.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.orm import Session

from registry import events
from registry.names import storable
from registry.row import MAX_TEXT
from registry.tables import RetainedRecord, now

TABLE = RetainedRecord.__tablename__


@dataclass(frozen=True, slots=True)
class Sent:
    """A text to keep: the id of the key it was sent with, its vector as the caller's bytes, when, and until when."""

    key: str
    text: str
    vector: bytes
    at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Retained:
    """A kept text; `seen` counts how often it was sent, `at` is the last time."""

    id: int
    adapter: str
    version: int
    key: str
    text: str
    vector: bytes
    seen: int
    at: datetime
    expires_at: datetime


def storable_text(text: str) -> bool:
    """Whether a text can be kept: what no dataset may hold is not."""
    return bool(text.strip()) and len(text) <= MAX_TEXT and "\x00" not in text and _encodable(text)


def add(session: Session, adapter: str, version: int, texts: Sequence[Sent], *, keep: int) -> None:
    """Keep texts that a version embedded; of an adapter's only the `keep` sent last stay, whatever the version.

    A text that is there already, from the same key and of the same version, is counted and kept on from its last time.
    """
    known = {
        (row.key, row.digest): row
        for row in session.scalars(
            select(RetainedRecord).where(
                RetainedRecord.adapter == adapter,
                RetainedRecord.version == version,
                RetainedRecord.digest.in_({_digest(sent.text) for sent in texts}),
            )
        )
    }
    for sent in texts:
        mark = (sent.key, _digest(sent.text))
        row = known.get(mark)
        if row is None:
            row = known[mark] = RetainedRecord(
                adapter=adapter,
                version=version,
                key=sent.key,
                digest=mark[1],
                text=sent.text,
                vector=sent.vector,
                seen=1,
                at=sent.at,
                expires_at=sent.expires_at,
            )
            session.add(row)
        else:
            row.seen += 1
            row.at, row.expires_at = max(row.at, sent.at), max(row.expires_at, sent.expires_at)
    session.flush()
    _trim(session, adapter, keep)


def newest(session: Session, adapter: str, version: int | None = None, *, limit: int) -> list[Retained]:
    """Texts of an adapter (perhaps of one version) that have not expired, the one sent last first."""
    if not storable(adapter):
        return []
    query = select(RetainedRecord).where(RetainedRecord.adapter == adapter, RetainedRecord.expires_at > now())
    if version is not None:
        query = query.where(RetainedRecord.version == version)
    found = session.scalars(query.order_by(RetainedRecord.at.desc(), RetainedRecord.id.desc()).limit(limit))
    return [_retained(row) for row in found]


def count(session: Session, adapter: str | None = None, version: int | None = None) -> int:
    """How many texts are kept, expired ones that were not deleted yet included."""
    query = select(func.count()).select_from(RetainedRecord)
    if adapter is not None:
        query = query.where(RetainedRecord.adapter == adapter)
    if version is not None:
        query = query.where(RetainedRecord.version == version)
    return session.scalar(query) or 0


def expire(session: Session) -> int:
    """Delete what has expired; how many texts that were."""
    return _forget(session, RetainedRecord.expires_at <= now())


def purge(session: Session, *, adapter: str | None = None, key: str | None = None, by: str = "system") -> int:
    """Delete the texts of an adapter, of a key, or those of both; how many that were.

    Raises ValueError where neither is named.
    """
    chosen = [column == name for column, name in ((RetainedRecord.adapter, adapter), (RetainedRecord.key, key)) if name]
    if not chosen:
        raise ValueError("an adapter or a key must be named")
    if not all(storable(name) for name in (adapter, key) if name):
        return 0
    deleted = _forget(session, and_(*chosen))
    events.record(session, "texts.purged", adapter or "every adapter", by, {"key": key, "texts": deleted})
    return deleted


def _trim(session: Session, adapter: str, keep: int) -> None:
    surplus = count(session, adapter) - keep
    if surplus > 0:
        oldest = (
            select(RetainedRecord.id)
            .where(RetainedRecord.adapter == adapter)
            .order_by(RetainedRecord.at, RetainedRecord.id)
            .limit(surplus)
        )
        _forget(session, RetainedRecord.id.in_(oldest.scalar_subquery()))


def _forget(session: Session, which: ColumnElement[bool]) -> int:
    """Delete rows, and overwrite them where the database would leave them lying in free pages."""
    if session.get_bind().dialect.name == "sqlite":
        session.connection().exec_driver_sql("PRAGMA secure_delete = ON")
    found = session.execute(delete(RetainedRecord).where(which).returning(RetainedRecord.id))
    return len(found.all())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _retained(row: RetainedRecord) -> Retained:
    return Retained(row.id, row.adapter, row.version, row.key, row.text, row.vector, row.seen, row.at, row.expires_at)
