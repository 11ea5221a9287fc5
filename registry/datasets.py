"""Datasets: immutable revisions under a name, their rows kept as one canonical artifact."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import events
from registry.artifacts import Artifacts
from registry.errors import NotFound
from registry.names import storable, storable_number, valid_name
from registry.row import Row, RowKind
from registry.rows import parse
from registry.tables import DatasetRecord, now


@dataclass(frozen=True, slots=True)
class DatasetRevision:
    """One upload: `digest` names its rows in the store, `report` is its quality report (see `registry.report`)."""

    name: str
    revision: int
    digest: str
    kind: RowKind
    rows: int
    labels: int
    """Number of different labels."""
    report: dict[str, Any]
    created_at: datetime


def add(
    session: Session, artifacts: Artifacts, name: str, data: bytes, format: str, *, by: str = "system"
) -> DatasetRevision:
    """Parse an upload ("csv" or "jsonl"), store its rows and enter them as the name's next revision.

    The same rows under the same name give the revision they already have. Parsing takes seconds for a big file: call
    this first in its session, and no other writer waits meanwhile. Raises InvalidName; DatasetRefused, and then
    nothing is stored.
    """
    valid_name(name)
    parsed = parse(data, format)
    blob = b"".join(_line(row) for row in parsed.rows)
    digest = artifacts.put(blob)
    known = session.scalar(select(DatasetRecord).where(DatasetRecord.name == name, DatasetRecord.digest == digest))
    if known is not None:
        return _dataset(known)
    last = session.scalar(select(func.max(DatasetRecord.revision)).where(DatasetRecord.name == name)) or 0
    row = DatasetRecord(
        name=name,
        revision=last + 1,
        digest=digest,
        kind=parsed.kind,
        rows=len(parsed.rows),
        labels=len({row.label for row in parsed.rows if row.label is not None}),
        report=parsed.report,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    events.record(session, "dataset.added", f"{name}@{row.revision}", by, {"digest": digest, "rows": row.rows})
    return _dataset(row)


def get(session: Session, name: str, revision: int | None = None) -> DatasetRevision:
    """One revision, the newest when none is given. Raises NotFound."""
    query = select(DatasetRecord).where(DatasetRecord.name == name)
    if revision is not None:
        query = query.where(DatasetRecord.revision == revision)
    known = storable(name) and (revision is None or storable_number(revision))
    row = session.scalar(query.order_by(DatasetRecord.revision.desc()).limit(1)) if known else None
    if row is None:
        raise NotFound("dataset", name if revision is None else f"{name}@{revision}")
    return _dataset(row)


def all(session: Session) -> list[DatasetRevision]:
    """Every revision, by name, newest revision first."""
    query = select(DatasetRecord).order_by(DatasetRecord.name, DatasetRecord.revision.desc())
    return [_dataset(row) for row in session.scalars(query)]


def load_rows(artifacts: Artifacts, dataset: DatasetRevision) -> list[Row]:
    """The rows of a revision in their order. Raises ArtifactMissing or ArtifactCorrupt."""
    return [Row(**orjson.loads(line)) for line in artifacts.get(dataset.digest).splitlines()]


def _line(row: Row) -> bytes:
    """The canonical line of a row: its set fields in the order of their names."""
    fields = {name: getattr(row, name) for name in sorted(Row.__slots__)}
    return orjson.dumps({name: value for name, value in fields.items() if value is not None}) + b"\n"


def _dataset(row: DatasetRecord) -> DatasetRevision:
    return DatasetRevision(
        row.name, row.revision, row.digest, row.kind, row.rows, row.labels, row.report, row.created_at
    )
