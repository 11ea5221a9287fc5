"""The imported backbones. The first one imported is the default."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import Conflict
from registry.names import valid_backbone_name, valid_digest
from registry.tables import AdapterRecord, BackboneRecord, now


@dataclass(frozen=True, slots=True)
class Backbone:
    """One imported backbone, named by the digest of its manifest."""

    name: str
    digest: str
    dimension: int
    max_tokens: int
    source: str
    created_at: datetime


def add(session: Session, manifest: Mapping[str, Any], digest: str, *, by: str = "system") -> Backbone:
    """Enter a backbone whose manifest is already in the store; entering the same one again changes nothing.

    Reads `name`, `dimension`, `max_tokens` and `source` of the manifest. Raises InvalidName, and Conflict when the name
    belongs to another backbone or to an adapter.
    """
    name = valid_backbone_name(str(manifest["name"]))
    valid_digest(digest)
    known = session.scalar(select(BackboneRecord).where(BackboneRecord.digest == digest))
    if known is not None:
        return _backbone(known)
    if session.scalar(select(BackboneRecord).where(func.lower(BackboneRecord.name) == name.lower())) is not None:
        raise Conflict(f"the name {name} belongs to a backbone with another digest; import this one under another name")
    if session.get(AdapterRecord, name.lower()) is not None:
        raise Conflict(f"the name {name} belongs to an adapter")
    row = BackboneRecord(
        name=name,
        digest=digest,
        dimension=int(manifest["dimension"]),
        max_tokens=int(manifest["max_tokens"]),
        source=str(manifest["source"]),
        manifest=dict(manifest),
        created_at=now(),
    )
    session.add(row)
    session.flush()
    events.record(session, "backbone.added", name, by, {"digest": digest})
    return _backbone(row)


def default(session: Session) -> Backbone | None:
    """The backbone imported first, None when there is none."""
    row = session.scalar(select(BackboneRecord).order_by(BackboneRecord.id).limit(1))
    return None if row is None else _backbone(row)


def all(session: Session) -> list[Backbone]:
    """Every backbone, in the order of import."""
    return [_backbone(row) for row in session.scalars(select(BackboneRecord).order_by(BackboneRecord.id))]


def _backbone(row: BackboneRecord) -> Backbone:
    return Backbone(row.name, row.digest, row.dimension, row.max_tokens, row.source, row.created_at)
