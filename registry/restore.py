"""A backup put back into an empty home: everything is verified first, and the registry appears last, at once.

Artifacts go into the store before any row names them, so a crash leaves nothing but bytes that a second attempt takes
up. Rows go into a SQLite file beside the real one that is renamed when it is whole, or into PostgreSQL in one
transaction. A backup of an older schema is restored as that schema and migrated; one of a newer schema is refused.

A job that ran when the backup was made is queued again, since the files of its run are not in the backup; where another
job of its adapter waits already, it ends as failed with that reason.
"""

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    Double,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.types import TypeEngine

from registry import events, schema
from registry.backup_file import BackupRefused, Entry, Source, entry_of, reading, sync_folder, unpack, verified
from registry.checkup import sqlite_file
from registry.database import Database
from registry.home import Home
from registry.instant import Instant, now
from registry.lock import held
from registry.states import JobState
from registry.tables import Base, JobRecord

RESTORED: Final = "registry.restored"
_JOBS: Final = JobRecord.__tablename__
_STAGED: Final = ".restoring"
_WAITS: Final = "restored from a backup that was made while it ran, and another job of its adapter waits already"
_INSERT_AT_ONCE: Final = 500
# What an empty home may hold: what a file system or an earlier attempt put there.
_HARMLESS: Final = frozenset({"lost+found", "artifacts", "work", "worker.lock"})
_TYPES: Final[Mapping[str, TypeEngine[Any]]] = {
    "instant": Instant(),
    "date": Date(),
    "json": JSON(none_as_null=True),
    "bytes": LargeBinary(),
    "integer": BigInteger(),
    "float": Double(),
    "boolean": Boolean(),
    "text": Text(),
}


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back; `aside` is the folder that the home's former registry was moved to."""

    schema: str
    """Of the backup; the home has this program's."""
    made_at: datetime
    rows: dict[str, int]
    artifacts: int
    missing: dict[str, str]
    requeued: int
    failed: int
    aside: Path | None


def restore(
    home: Home,
    path: Path,
    *,
    replace: bool = False,
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Restored:
    """Restore a backup (a folder or a tar file) into a home.

    Args:
        replace: Also into a home on SQLite that holds a registry already: that one is moved aside, not deleted. No
            service may run on it.
        tell: Called with what is done ("verify" or "store") and the number of entries so far and in all.

    Raises:
        BackupRefused: The backup is damaged or of a newer schema, or the home is not empty; nothing was changed.
        Unavailable: The database or the object store cannot be reached.
    """
    with reading(path) as source:
        manifest = unpack(source)
        revision = _known_schema(manifest)
        rows = [entry_of(entry) for table in manifest["tables"] for entry in table["entries"]]
        artifacts = [entry_of(entry) for entry in manifest["artifacts"]]
        for done, entry in enumerate([*rows, *artifacts], 1):
            verified(source, entry)
            tell("verify", done, len(rows) + len(artifacts))
        _require_room(home, replace)
        _store(home, source, artifacts, tell)
        requeued, failed, aside = _put_rows(home, source, manifest, revision, replace)
    return Restored(
        revision,
        datetime.fromisoformat(manifest["created_at"]),
        {table["name"]: int(table["rows"]) for table in manifest["tables"]},
        len(artifacts),
        dict(manifest["missing"]),
        requeued,
        failed,
        aside,
    )


def _known_schema(manifest: Mapping[str, Any]) -> str:
    revision = str(manifest["schema"])
    if not schema.knows(revision):
        raise BackupRefused(
            f"the backup has schema {revision}, which is newer than schema {schema.head()} of this Driftline: upgrade "
            "this program, then restore"
        )
    return revision


def _require_room(home: Home, replace: bool) -> None:
    """Refuse a home that holds something, unless it may be replaced."""
    if sqlite_file(home.database_url) is None:
        if _holds_rows(home):
            raise BackupRefused("the database holds a registry already; restore into an empty PostgreSQL database")
        return
    if replace:
        if home.worker_lock.exists() and held(home.worker_lock):
            raise BackupRefused("a worker runs on this home; stop it, and the service, first")
        return
    file = sqlite_file(home.database_url)
    found = [] if not home.data_dir.exists() else [each.name for each in home.data_dir.iterdir()]
    if (file is not None and file.exists()) or any(
        name not in _HARMLESS and not name.startswith(_STAGED) for name in found
    ):
        raise BackupRefused(
            f"{home.data_dir} is not empty; restore into an empty folder, or with --replace, which moves the registry "
            "that is there aside"
        )


def _holds_rows(home: Home) -> bool:
    database = Database(home.database_url)
    try:
        with database.reading() as session:
            present = set(inspect(session.connection()).get_table_names())
            return any(
                session.scalar(select(func.count()).select_from(table))
                for table in Base.metadata.sorted_tables
                if table.name in present
            )
    finally:
        database.close()


def _store(home: Home, source: Source, artifacts: list[Entry], tell: Callable[[str, int, int], None]) -> None:
    for folder in (home.data_dir, home.artifacts_dir, home.work_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = home.artifacts()
    for done, entry in enumerate(artifacts, 1):
        if store.put(verified(source, entry)) != entry.name.rpartition("/")[2]:
            raise BackupRefused(f"the backup's entry {entry.name} is not what its name says")
        tell("store", done, len(artifacts))


def _put_rows(
    home: Home, source: Source, manifest: Mapping[str, Any], revision: str, replace: bool
) -> tuple[int, int, Path | None]:
    file = sqlite_file(home.database_url)
    if file is None:
        counts = _fill(home.database_url, source, manifest, revision)
        return (*counts, None)
    staged = file.with_name(f"{_STAGED}-{file.name}")
    for each in _files_of(staged):
        each.unlink(missing_ok=True)
    url = URL.create("sqlite", database=str(staged)).render_as_string()
    counts = _fill(url, source, manifest, revision)
    with open(staged, "rb") as made:  # noqa: PTH123 - its descriptor is what counts
        os.fsync(made.fileno())
    aside = _move_aside(home, file) if replace else None
    staged.rename(file)
    sync_folder(file.parent)
    return (*counts, aside)


def _files_of(database: Path) -> list[Path]:
    return [database.with_name(database.name + ending) for ending in ("", "-wal", "-shm")]


def _move_aside(home: Home, file: Path) -> Path | None:
    """Move the registry, the job engine's notes and the work folders out of the way; artifacts stay."""
    jobs_file = home.data_dir / "jobs.sqlite"
    present = [each for each in (*_files_of(file), *_files_of(jobs_file), home.work_dir) if each.exists()]
    if not present:
        return None
    aside = home.data_dir / f"before-restore-{now():%Y%m%dT%H%M%S}"
    aside.mkdir(mode=0o700)
    for each in present:
        each.rename(aside / each.name)
    home.work_dir.mkdir(mode=0o700)
    sync_folder(home.data_dir)
    return aside


def _fill(url: str, source: Source, manifest: Mapping[str, Any], revision: str) -> tuple[int, int]:
    """Make the schema as it was, put the rows in, and migrate; how many jobs were queued again and ended."""
    database = Database(url)
    try:
        with database.connection() as connection:
            schema.upgrade(connection, revision)
        counts = (0, 0)
        with database.connection() as connection, connection.begin():
            for table in manifest["tables"]:
                if table["name"] == _JOBS:
                    rows = list(_rows(table, source))
                    counts = _settled(rows)
                    _insert(connection, table, rows)
                else:
                    _insert(connection, table, _rows(table, source))
        database.migrate()
        with database.writing() as session:
            detail = {"made_at": manifest["created_at"], "schema": revision, "artifacts": len(manifest["artifacts"])}
            events.record(session, RESTORED, "registry", "cli", detail)
        if database.dialect == "sqlite":
            database.scrub(_JOBS)  # the log goes into the file, which is renamed alone
        return counts
    finally:
        database.close()


def _insert(connection: Connection, told: Mapping[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    name, columns = str(told["name"]), _columns(told)
    present = {column["name"] for column in inspect(connection).get_columns(name)}
    if not columns.keys() <= present:
        raise BackupRefused(f"the backup's table {name} is not that of its schema")
    # Not today's classes: the table is as it was when the backup was made.
    table = Table(name, MetaData(), *(Column(column, _TYPES[kind]) for column, kind in columns.items()))
    left = iter(rows)
    while some := list(islice(left, _INSERT_AT_ONCE)):
        connection.execute(insert(table), some)
    if connection.dialect.name == "postgresql" and columns.get("id") == "integer":
        # Ids were given, not drawn: the sequence goes on after them.
        connection.execute(
            text(f"SELECT setval(pg_get_serial_sequence(:name, 'id'), max(id)) FROM {name}").bindparams(name=name)
        )


def _rows(told: Mapping[str, Any], source: Source) -> Iterator[dict[str, Any]]:
    columns = _columns(told)
    for entry in told["entries"]:
        for line in verified(source, entry_of(entry)).splitlines():
            values = zip(columns.items(), orjson.loads(line), strict=True)
            yield {column: _value(kind, value) for (column, kind), value in values}


def _columns(told: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a table with their kinds, in the order of its rows.

    Raises BackupRefused for a table or kind that no backup has.
    """
    columns = {str(column): str(kind) for column, kind in told["columns"]}
    if told["name"] not in Base.metadata.tables or not set(columns.values()) <= _TYPES.keys():
        raise BackupRefused("the backup names a table or a kind of column that no backup has")
    return columns


def _value(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "instant":
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind == "date":
        return date.fromisoformat(value)
    return base64.b64decode(value) if kind == "bytes" else value


def _settled(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Change rows of jobs that ran: queued again, or ended where another job of the adapter waits; how many of each."""
    waiting = {row["adapter"] for row in rows if row["state"] == JobState.QUEUED}
    requeued = ended = 0
    for row in rows:
        if row["state"] != JobState.RUNNING:
            continue
        if "worker" in row:  # which columns there are is the backup's schema's matter
            row["worker"] = None
        if "pauses" in row:
            row["pauses"] += 1  # its worker did not die over it
        if row["cancel_requested"] or row["adapter"] in waiting:
            row["finished_at"] = now()
            row["state"] = (JobState.CANCELLED if row["cancel_requested"] else JobState.FAILED).value
            row["error"] = None if row["cancel_requested"] else _WAITS
            ended += 1
        else:
            waiting.add(row["adapter"])
            row |= {"state": JobState.QUEUED.value, "step": None, "progress": 0.0}
            requeued += 1
    return requeued, ended
