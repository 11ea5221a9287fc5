"""What can be seen of a registry without changing it: for `driftline doctor`.

Nothing is migrated, no file is made, and no message names a user, a password or a host's secrets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import func, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from registry import garbage, jobs, keys, schema
from registry.database import Database
from registry.errors import ArtifactCorrupt, ArtifactMissing, RegistryError, SchemaTooNew
from registry.jobs import Job
from registry.keys import Scope
from registry.tables import JobEventRecord, now

_PRAGMAS: Final = ("journal_mode", "synchronous", "foreign_keys")
_SHOWN_NAMES: Final = {"synchronous": {"0": "off", "1": "normal", "2": "full", "3": "extra"}}


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """A database as it was found.

    Attributes:
        where: Its kind and place, without user and password.
        settings: What it says of itself.
        revision: Of its schema; None for a database without one.
        pending: Revisions that the next start will bring, oldest first.
        ahead_seconds: By how much its clock is ahead of this machine's; None where it has none of its own.
    """

    where: str
    settings: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    pending: tuple[str, ...] = ()
    ahead_seconds: float | None = None


def place_of(url: str) -> str:
    """A database's kind, host and name. Raises RegistryError for a URL that cannot be read."""
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except ArgumentError:
        raise RegistryError("the database URL cannot be read") from None
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:{parsed.database}"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.get_backend_name()} {parsed.host or 'local'}{port}/{parsed.database or ''}"


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database, None for another kind. Raises RegistryError for a URL that cannot be used."""
    place = place_of(url)
    if not place.startswith("sqlite:"):
        return None
    name = place.removeprefix("sqlite:")
    if name in ("None", "", ":memory:"):
        raise RegistryError("the registry needs a database file: several processes share it")
    return Path(name).absolute()


def database_facts(database: Database, url: str, *, deep: bool = False) -> DatabaseFacts:
    """Look at a database that exists.

    Args:
        deep: On SQLite, also read the whole file for damage (`quick_check`).

    Raises:
        Unavailable: It cannot be reached.
        SchemaTooNew: A newer program migrated it.
        RegistryError: It is damaged, or refuses what is asked.
    """
    with database.reading() as session:
        connection = session.connection()
        settings, ahead = {}, None
        if database.dialect == "sqlite":
            for pragma in _PRAGMAS:
                value = str(connection.exec_driver_sql(f"PRAGMA {pragma}").scalar())
                settings[pragma] = _SHOWN_NAMES.get(pragma, {}).get(value, value)
            if deep:
                found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
                if found != "ok":
                    raise RegistryError("the database file is damaged: restore a backup")
                settings["quick_check"] = found
        else:
            settings["server_version"] = str(connection.exec_driver_sql("SHOW server_version").scalar())
            settings["isolation"] = str(connection.exec_driver_sql("SHOW transaction_isolation").scalar())
            settings["synchronous_commit"] = str(connection.exec_driver_sql("SHOW synchronous_commit").scalar())
            there = connection.scalar(select(func.clock_timestamp()))
            ahead = (there - datetime.now(UTC)).total_seconds() if isinstance(there, datetime) else None
        revision = schema.current(connection)
    known = schema.revisions()
    if revision is not None and revision not in known:
        raise SchemaTooNew(revision, schema.head())
    pending = known if revision is None else known[known.index(revision) + 1 :]
    return DatabaseFacts(place_of(url), settings, revision, tuple(pending), ahead)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """How many keys are valid, how many of them may do everything, and which of those end within a week, by name."""

    valid: int
    admins: int
    revoked: int
    ending: tuple[str, ...]


def key_facts(session: Session, within_seconds: float) -> KeyFacts:
    """Count keys; `ending` are valid admin keys that expire within so many seconds."""
    found, moment = keys.all(session), now()
    valid = [key for key in found if key.valid(moment)]
    admins = [key for key in valid if Scope.ADMIN in key.scopes]
    ending = [k.name for k in admins if k.expires_at and (k.expires_at - moment).total_seconds() < within_seconds]
    return KeyFacts(len(valid), len(admins), sum(key.revoked_at is not None for key in found), tuple(ending))


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """Artifacts that rows need: how many, and those that are missing or damaged with what needs them."""

    needed: int
    faults: tuple[str, ...]


def artifact_facts(
    session: Session, fetch: Callable[[str], bytes], has: Callable[[str], bool], *, deep: bool
) -> ArtifactFacts:
    """Look for every artifact that a row needs; `deep` reads each and checks its digest. Raises Unavailable."""
    faults: list[str] = []

    def manifest(digest: str) -> bytes:
        try:
            return fetch(digest)
        except (ArtifactMissing, ArtifactCorrupt):
            return b"{}"  # it is needed itself, and found wanting below

    needed = garbage.named(session, manifest).needed
    for digest, what in needed.items():
        try:
            if deep:
                fetch(digest)
            elif not has(digest):
                raise ArtifactMissing(digest)
        except (ArtifactMissing, ArtifactCorrupt) as error:
            faults.append(f"{what}: {error}")
    return ArtifactFacts(len(needed), tuple(faults))


def open_jobs(session: Session) -> list[tuple[Job, float]]:
    """Jobs that wait or run, each with the seconds since something last happened to it."""
    found, moment = jobs.unfinished(session), now()
    query = select(JobEventRecord.job_id, func.max(JobEventRecord.at)).group_by(JobEventRecord.job_id)
    rows = session.execute(query.where(JobEventRecord.job_id.in_([job.id for job in found])))
    last = {job_id: at for job_id, at in rows if at is not None}
    return [(job, (moment - last.get(job.id, job.created_at)).total_seconds()) for job in found]
