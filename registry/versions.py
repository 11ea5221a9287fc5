"""Adapters and their versions, and the only functions that move what is live.

    publish ──► candidate ──promote──► live ──promote of another, rollback──► retired ──promote──► live
            └─► rejected  ──promote with force──► live

Each move is one transaction with its event. Promotions form a stack: a rollback takes the top one off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import events
from registry.clean import clean
from registry.errors import Conflict, NotFound
from registry.names import storable, storable_number, valid_digest, valid_name
from registry.states import VersionState
from registry.tables import AdapterRecord, BackboneRecord, PromotionRecord, VersionRecord, now

__all__ = [
    "ANY",
    "Adapter",
    "Version",
    "VersionState",
    "all_adapters",
    "by_job",
    "ensure_adapter",
    "get",
    "get_adapter",
    "history",
    "live",
    "promote",
    "publish",
    "rollback",
]


class _Any(Enum):
    ANY = "any"


ANY = _Any.ANY
"""Promote whatever is live at the moment."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named adapter: `backbone` is a digest, `live` the number its name points to."""

    name: str
    backbone: str
    live: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable trained state; `digest` names its manifest, `reference` its drift reference in the store."""

    adapter: str
    number: int
    digest: str
    state: VersionState
    kind: str
    backbone: str
    reference: str | None
    parent: int | None
    job_id: str | None
    dataset: str
    metrics: dict[str, Any]
    verdict: dict[str, Any] | None
    created_at: datetime
    promoted_at: datetime | None

    @property
    def name(self) -> str:
        """How callers ask for exactly this version, such as `banking@7`."""
        return f"{self.adapter}@{self.number}"


def ensure_adapter(session: Session, name: str, backbone: str, *, by: str = "system") -> Adapter:
    """The adapter of that name, made where it is missing.

    `backbone` is a digest. Raises InvalidName; NotFound for an unknown backbone; Conflict when the adapter stands on
    another backbone or the name is a backbone's.
    """
    valid_name(name)
    row = session.get(AdapterRecord, name)
    if row is None:
        if session.scalar(select(BackboneRecord.id).where(BackboneRecord.digest == backbone)) is None:
            raise NotFound("backbone", backbone)
        if session.scalar(select(BackboneRecord.id).where(func.lower(BackboneRecord.name) == name)) is not None:
            raise Conflict(f"the name {name} belongs to a backbone")
        row = AdapterRecord(name=name, backbone=backbone, created_at=now())
        session.add(row)
        session.flush()
        events.record(session, "adapter.added", name, by, {"backbone": backbone})
    if row.backbone != backbone:
        raise Conflict(f"the adapter {name} stands on another backbone")
    return _adapter(session, row)


def get_adapter(session: Session, name: str) -> Adapter:
    """The adapter of that name. Raises NotFound."""
    return _adapter(session, _adapter_row(session, name))


def all_adapters(session: Session) -> list[Adapter]:
    """Every adapter, by name."""
    query = select(VersionRecord.adapter, VersionRecord.number).where(VersionRecord.state == VersionState.LIVE)
    live_numbers = {row.adapter: row.number for row in session.execute(query)}
    rows = session.scalars(select(AdapterRecord).order_by(AdapterRecord.name))
    return [Adapter(row.name, row.backbone, live_numbers.get(row.name), row.created_at) for row in rows]


def publish(
    session: Session,
    *,
    adapter: str,
    digest: str,
    kind: str,
    backbone: str,
    reference: str | None,
    parent: int | None,
    job_id: str | None,
    dataset: str,
    metrics: Mapping[str, Any],
    verdict: Mapping[str, Any] | None,
    rejected: bool,
) -> Version:
    """Enter a version whose artifacts are all in the store; it gets the adapter's next number.

    A job publishes once: calling again with its id gives back what it published. Raises NotFound for an unknown
    adapter or parent, Conflict when the adapter stands on another backbone.
    """
    if job_id is not None and (earlier := by_job(session, job_id)) is not None:
        return earlier
    row = _adapter_row(session, adapter)
    if row.backbone != backbone:
        raise Conflict(f"the adapter {adapter} stands on another backbone")
    if parent is not None:
        get(session, adapter, parent)
    last = session.scalar(select(func.max(VersionRecord.number)).where(VersionRecord.adapter == adapter)) or 0
    version = VersionRecord(
        adapter=adapter,
        number=last + 1,
        digest=valid_digest(digest),
        state=VersionState.REJECTED if rejected else VersionState.CANDIDATE,
        kind=kind,
        backbone=backbone,
        reference=None if reference is None else valid_digest(reference),
        parent=parent,
        job_id=job_id,
        dataset=dataset,
        metrics=dict(metrics),
        verdict=None if verdict is None else dict(verdict),
        created_at=now(),
        promoted_at=None,
    )
    session.add(version)
    session.flush()
    published = _version(version)
    detail = {"digest": digest, "state": published.state, "job": job_id}
    events.record(session, "version.published", published.name, job_id or "system", detail)
    return published


def get(session: Session, adapter: str, number: int) -> Version:
    """One version. Raises NotFound."""
    return _version(_version_row(session, adapter, number))


def by_job(session: Session, job_id: str) -> Version | None:
    """The version a job published, None when it published none."""
    row = session.scalar(select(VersionRecord).where(VersionRecord.job_id == job_id))
    return None if row is None else _version(row)


def live(session: Session, adapter: str) -> Version | None:
    """The version the adapter's name points to, None when it points to none or there is no such adapter."""
    row = _live_row(session, adapter)
    return None if row is None else _version(row)


def history(session: Session, adapter: str) -> list[Version]:
    """Every version of the adapter, newest first. Raises NotFound for an unknown adapter."""
    _adapter_row(session, adapter)
    rows = session.scalars(
        select(VersionRecord).where(VersionRecord.adapter == adapter).order_by(VersionRecord.number.desc())
    )
    return [_version(row) for row in rows]


def promote(
    session: Session,
    adapter: str,
    number: int,
    *,
    by: str,
    force: bool = False,
    expect_live: int | Literal[_Any.ANY] | None = ANY,
) -> Version:
    """Make a version live and retire the one before it; promoting the live version again changes nothing.

    Raises NotFound; Conflict when something else than `expect_live` (a number, None for nothing) is live, or when the
    version was rejected and `force` is not set.
    """
    row = _version_row(session, adapter, number)
    before = _live_row(session, adapter)
    found = None if before is None else before.number
    if expect_live is not ANY and expect_live != found:
        raise Conflict(f"version {found} of {adapter} is live, not {expect_live}: somebody else moved it")
    if row.state is VersionState.LIVE:
        return _version(row)
    if row.state is VersionState.REJECTED and not force:
        raise Conflict(f"{adapter}@{number} was rejected by the gate; only force makes it live")
    moment = now()
    forced = row.state is VersionState.REJECTED
    _point(session, before, row, moment)
    session.add(PromotionRecord(adapter=adapter, number=number, at=moment, by=clean(by), undone_at=None))
    promoted = _version(row)
    events.record(session, "version.promoted", promoted.name, by, {"before": found, "forced": forced})
    return promoted


def rollback(session: Session, adapter: str, *, by: str) -> Version:
    """Undo the last promotion: the version that was live before it becomes live again.

    Rolling back twice goes back two promotions. Raises NotFound for an unknown adapter, Conflict when no version was
    live before.
    """
    _adapter_row(session, adapter)
    stack = session.scalars(
        select(PromotionRecord)
        .where(PromotionRecord.adapter == adapter, PromotionRecord.undone_at.is_(None))
        .order_by(PromotionRecord.id.desc())
        .limit(2)
    ).all()
    if len(stack) < 2:
        raise Conflict(f"no version of {adapter} was live before this one")
    top, below = stack
    moment = now()
    top.undone_at = moment
    target = _version_row(session, adapter, below.number)
    _point(session, _version_row(session, adapter, top.number), target, moment)
    restored = _version(target)
    events.record(session, "version.rolled_back", restored.name, by, {"before": top.number})
    return restored


def _point(session: Session, before: VersionRecord | None, target: VersionRecord, moment: datetime) -> None:
    """Move the state `live`. Two flushes, because the database admits only one live version at any time."""
    if before is not None:
        before.state = VersionState.RETIRED
        session.flush()
    target.state = VersionState.LIVE
    target.promoted_at = moment
    session.flush()


def _live_row(session: Session, adapter: str) -> VersionRecord | None:
    if not storable(adapter):
        return None
    return session.scalar(
        select(VersionRecord).where(VersionRecord.adapter == adapter, VersionRecord.state == VersionState.LIVE)
    )


def _adapter_row(session: Session, name: str) -> AdapterRecord:
    row = session.get(AdapterRecord, name) if storable(name) else None
    if row is None:
        raise NotFound("adapter", name)
    return row


def _version_row(session: Session, adapter: str, number: int) -> VersionRecord:
    known = storable(adapter) and storable_number(number)
    row = session.get(VersionRecord, (adapter, number)) if known else None
    if row is None:
        raise NotFound("version", f"{adapter}@{number}")
    return row


def _adapter(session: Session, row: AdapterRecord) -> Adapter:
    number = session.scalar(
        select(VersionRecord.number).where(VersionRecord.adapter == row.name, VersionRecord.state == VersionState.LIVE)
    )
    return Adapter(row.name, row.backbone, number, row.created_at)


def _version(row: VersionRecord) -> Version:
    return Version(
        adapter=row.adapter,
        number=row.number,
        digest=row.digest,
        state=row.state,
        kind=row.kind,
        backbone=row.backbone,
        reference=row.reference,
        parent=row.parent,
        job_id=row.job_id,
        dataset=row.dataset,
        metrics=row.metrics,
        verdict=row.verdict,
        created_at=row.created_at,
        promoted_at=row.promoted_at,
    )
