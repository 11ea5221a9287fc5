"""What a key may ask for: texts a minute and texts a day, and how many it had today, over all services together."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import NotFound
from registry.names import storable
from registry.tables import KeyLimitRecord, KeyRecord, KeyUseRecord

MOST = 1_000_000_000
KEPT_DAYS = 40
"""Days for which the counts of past days are kept."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one key; None is no limit.

    Attributes:
        texts_per_minute: Held by each service on its own.
        texts_per_day: From midnight to midnight UTC, over all services.
    """

    texts_per_minute: int | None = None
    texts_per_day: int | None = None

    def __post_init__(self) -> None:
        for name in ("texts_per_minute", "texts_per_day"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                raise ValueError(f"{name} must be from 1 to {MOST}")


def limit(session: Session, key_id: str, limits: KeyLimits, *, by: str = "system") -> KeyLimits:
    """Set a key's limits, instead of those it had. Raises NotFound."""
    if not storable(key_id) or session.get(KeyRecord, key_id) is None:
        raise NotFound("key", key_id)
    row = session.get(KeyLimitRecord, key_id)
    if row is None:
        row = KeyLimitRecord(key=key_id)
        session.add(row)
    row.texts_per_minute, row.texts_per_day = limits.texts_per_minute, limits.texts_per_day
    session.flush()
    detail = {"texts_per_minute": limits.texts_per_minute, "texts_per_day": limits.texts_per_day}
    events.record(session, "key.limited", key_id, by, detail)
    return limits


def all_limits(session: Session) -> dict[str, KeyLimits]:
    """The limits of every key that has any, by id."""
    return {
        row.key: KeyLimits(row.texts_per_minute, row.texts_per_day)
        for row in session.scalars(select(KeyLimitRecord))
        if row.texts_per_minute is not None or row.texts_per_day is not None
    }


def add_uses(session: Session, day: date, texts: Mapping[str, int]) -> None:
    """Add the texts that keys (by id) had on a day; unknown keys are left out, old days are forgotten."""
    for key_id, count in sorted(texts.items()):
        row = session.get(KeyUseRecord, (key_id, day))
        if row is not None:
            row.texts += count
        elif session.get(KeyRecord, key_id) is not None:
            session.add(KeyUseRecord(key=key_id, day=day, texts=count))
    session.flush()
    session.execute(delete(KeyUseRecord).where(KeyUseRecord.day < date.fromordinal(day.toordinal() - KEPT_DAYS)))


def used(session: Session, day: date) -> dict[str, int]:
    """How many texts each key had on a day, by id."""
    rows = session.scalars(select(KeyUseRecord).where(KeyUseRecord.day == day))
    return {row.key: row.texts for row in rows}
