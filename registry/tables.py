"""The tables of the registry: one class a table, every constraint named, the same on SQLite and PostgreSQL.

Rows of these classes never leave the package: the functions beside this file give frozen values instead.
"""

from datetime import date, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from registry.instant import Instant
from registry.instant import now as now
from registry.row import RowKind
from registry.states import JobState, RolloutState, VersionState


def _states(states: type[VersionState] | type[JobState] | type[RolloutState] | type[RowKind], name: str) -> Enum:
    return Enum(
        states,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


# SQLite counts row ids only in a column typed INTEGER; PostgreSQL should not run out at 2^31.
_Serial = BigInteger().with_variant(Integer(), "sqlite")
_Name = String(64)
_Digest = String(64)


class Base(DeclarativeBase):
    """What all tables share: the naming of constraints and the column types of Python's."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Instant(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(),
    }


class BackboneRecord(Base):
    """An imported backbone; the lowest id is the default."""

    __tablename__ = "backbones"
    __table_args__ = (UniqueConstraint("digest"), UniqueConstraint("name"))

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    name: Mapped[str] = mapped_column(_Name)
    digest: Mapped[str] = mapped_column(_Digest)
    dimension: Mapped[int]
    max_tokens: Mapped[int]
    source: Mapped[str] = mapped_column(Text)
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class AdapterRecord(Base):
    """A named adapter, bound to one backbone for life."""

    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(_Name, primary_key=True)
    backbone: Mapped[str] = mapped_column(_Digest, ForeignKey("backbones.digest"))
    created_at: Mapped[datetime]


class VersionRecord(Base):
    """One trained version. Being live is a state of it, and the database admits one live version an adapter."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("job_id"),
        Index(
            "uq_versions_one_live",
            "adapter",
            unique=True,
            sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
    )

    adapter: Mapped[str] = mapped_column(_Name, ForeignKey("adapters.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(_Digest)
    state: Mapped[VersionState] = mapped_column(_states(VersionState, "state"))
    kind: Mapped[str] = mapped_column(String(16))
    backbone: Mapped[str] = mapped_column(_Digest, ForeignKey("backbones.digest"))
    reference: Mapped[str | None] = mapped_column(_Digest)
    parent: Mapped[int | None]
    job_id: Mapped[str | None] = mapped_column(String(40))
    dataset: Mapped[str] = mapped_column(Text)
    metrics: Mapped[dict[str, Any]]
    verdict: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    promoted_at: Mapped[datetime | None]


class PromotionRecord(Base):
    """The stack of promotions of an adapter: a rollback marks the top one undone and returns to the one below."""

    __tablename__ = "promotions"
    __table_args__ = (
        ForeignKeyConstraint(["adapter", "number"], ["versions.adapter", "versions.number"]),
        Index(None, "adapter", "id"),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    adapter: Mapped[str] = mapped_column(_Name)
    number: Mapped[int]
    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(Text)
    undone_at: Mapped[datetime | None]


class DatasetRecord(Base):
    """One immutable revision of a dataset; its rows are an artifact."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("name", "digest"),)

    name: Mapped[str] = mapped_column(_Name, primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(_Digest)
    kind: Mapped[RowKind] = mapped_column(_states(RowKind, "kind"))
    rows: Mapped[int]
    labels: Mapped[int]
    report: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class JobRecord(Base):
    """One retrain run. The database admits one waiting job an adapter, which need not exist yet."""

    __tablename__ = "jobs"
    __table_args__ = (
        ForeignKeyConstraint(["dataset", "revision"], ["datasets.name", "datasets.revision"]),
        Index(
            "uq_jobs_one_waiting",
            "adapter",
            unique=True,
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(None, "created_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    adapter: Mapped[str] = mapped_column(_Name)
    dataset: Mapped[str] = mapped_column(_Name)
    revision: Mapped[int]
    recipe: Mapped[dict[str, Any]]
    state: Mapped[JobState] = mapped_column(_states(JobState, "state"))
    step: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[float]
    metrics: Mapped[dict[str, Any]]
    verdict: Mapped[dict[str, Any] | None]
    version: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    requested_by: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    cancel_requested: Mapped[bool]
    attempts: Mapped[int]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(32))
    pauses: Mapped[int] = mapped_column(server_default=text("0"))


class WorkerRecord(Base):
    """A worker program that runs, or did until a moment ago; it counts its beats, and silence is what others see."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    beats: Mapped[int] = mapped_column(BigInteger)


class JobEventRecord(Base):
    """One thing that happened to a job, in order."""

    __tablename__ = "job_events"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(40), ForeignKey("jobs.id"))
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]


class KeyRecord(Base):
    """An API key: only the digest of its secret is kept."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(_Digest)
    scopes: Mapped[list[Any]]
    last4: Mapped[str] = mapped_column(String(4))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    retain_days: Mapped[int | None]


class KeyLimitRecord(Base):
    """What a key may ask for; None is no limit."""

    __tablename__ = "key_limits"

    key: Mapped[str] = mapped_column(String(16), ForeignKey("keys.id"), primary_key=True)
    texts_per_minute: Mapped[int | None]
    texts_per_day: Mapped[int | None]


class KeyUseRecord(Base):
    """How many texts a key had on a day (UTC), of all services together."""

    __tablename__ = "key_uses"

    key: Mapped[str] = mapped_column(String(16), ForeignKey("keys.id"), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    texts: Mapped[int] = mapped_column(BigInteger)


class ReadingRecord(Base):
    """One stored drift measurement of a version."""

    __tablename__ = "readings"
    __table_args__ = (
        ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.number"]),
        Index(None, "adapter", "id"),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    adapter: Mapped[str] = mapped_column(_Name)
    version: Mapped[int]
    at: Mapped[datetime]
    window_n: Mapped[int]
    statistics: Mapped[dict[str, Any]]
    cells: Mapped[list[Any]]
    alarm: Mapped[bool]


class MonitorRecord(Base):
    """What the monitor of a version remembers between restarts."""

    __tablename__ = "monitors"
    __table_args__ = (ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.number"]),)

    adapter: Mapped[str] = mapped_column(_Name, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[dict[str, Any]]
    alarm_active: Mapped[bool]
    alarm_since: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime]


class AlertRecord(Base):
    """An alert that was taken, so that its next delivery is recognised."""

    __tablename__ = "alerts"

    fingerprint: Mapped[str] = mapped_column(String(128), primary_key=True)
    starts_at: Mapped[str] = mapped_column(String(64), primary_key=True)
    adapter: Mapped[str] = mapped_column(_Name, ForeignKey("adapters.name"))
    job_id: Mapped[str | None] = mapped_column(String(40), ForeignKey("jobs.id"))
    received_at: Mapped[datetime]


class EventRecord(Base):
    """The registry's journal; programs poll its last id to learn of changes."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128))
    actor: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]]


class RolloutRecord(Base):
    """One candidate that is served in shadow or to a share. The database admits one unfinished rollout an adapter."""

    __tablename__ = "rollouts"
    __table_args__ = (
        ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.number"]),
        ForeignKeyConstraint(["adapter", "champion"], ["versions.adapter", "versions.number"]),
        Index(None, "adapter", "id"),
        Index(
            "uq_rollouts_one_active",
            "adapter",
            unique=True,
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    adapter: Mapped[str] = mapped_column(_Name)
    version: Mapped[int]
    champion: Mapped[int]
    state: Mapped[RolloutState] = mapped_column(_states(RolloutState, "state"))
    rules: Mapped[dict[str, Any]]
    salt: Mapped[str] = mapped_column(String(32))
    stage: Mapped[int]
    reason: Mapped[str | None] = mapped_column(Text)
    started_by: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    finished_by: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[datetime | None]


class RolloutCountRecord(Base):
    """What one serving process has counted of a rollout since it began; those of all processes add up."""

    __tablename__ = "rollout_counts"

    rollout: Mapped[int] = mapped_column(_Serial, ForeignKey("rollouts.id"), primary_key=True, autoincrement=False)
    replica: Mapped[str] = mapped_column(String(32), primary_key=True)
    counts: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]


class RetainedRecord(Base):
    """A text that an adapter embedded, kept for some days because the caller's key says so; its vector beside it."""

    __tablename__ = "retained"
    __table_args__ = (
        ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.number"]),
        UniqueConstraint("adapter", "version", "key", "digest"),
        Index(None, "adapter", "at"),
        Index(None, "expires_at"),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True)
    adapter: Mapped[str] = mapped_column(_Name)
    version: Mapped[int]
    key: Mapped[str] = mapped_column(String(16), ForeignKey("keys.id"))
    digest: Mapped[str] = mapped_column(_Digest)
    text: Mapped[str] = mapped_column(Text)
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    seen: Mapped[int]
    at: Mapped[datetime]
    expires_at: Mapped[datetime]
