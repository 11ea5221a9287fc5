"""A backup of the registry and its artifacts, consistent while services and workers go on.

Rows are read in one transaction that sees one committed state on both databases, and are written in a form that
belongs to neither: a backup of SQLite can be restored into PostgreSQL and the other way round. Artifacts never change,
and whatever a committed row names is in the store, so they are copied afterwards, each verified by its digest.

Left out: artifacts that nothing names, the job engine's own notes and the work folders of running jobs (their jobs
begin anew), workers, and, unless asked for, the texts that are kept of callers whose key allows it.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import JSON, BigInteger, Boolean, Date, Enum, Float, Integer, LargeBinary, Table, inspect, select
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from registry import schema
from registry.backup_file import FORMAT, MANIFEST, Entry, Sink, pack, writing
from registry.errors import ArtifactCorrupt, ArtifactMissing, RegistryError
from registry.garbage import Named, named
from registry.instant import Instant
from registry.registry import Registry
from registry.tables import Base, RetainedRecord, WorkerRecord

ROWS_AN_ENTRY: Final = 5_000
_TEXTS: Final = RetainedRecord.__tablename__
_NEVER: Final = frozenset({WorkerRecord.__tablename__})
_TELL_EVERY: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup holds. `missing` names artifacts that could not be copied, with what needs them."""

    digest: str
    """SHA-256 of the manifest, which names everything else."""
    schema: str
    rows: dict[str, int]
    artifacts: int
    bytes: int
    missing: dict[str, str]


def make(
    registry: Registry,
    target: Path,
    *,
    texts: bool = False,
    damaged: bool = False,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Made:
    """Write a backup to a folder, or to a tar file where the name ends in .tar.

    Args:
        texts: Also the kept texts and their vectors.
        damaged: Go on where an artifact that is needed is missing or damaged; the answer names it.
        tell: Called with the bytes of artifacts copied so far, and of all.

    Raises:
        BackupRefused: The target exists or cannot be written.
        RegistryError: An artifact that is needed is missing or damaged, or the database has what this program does not
            know.
        Unavailable: The database or the object store cannot be reached.
    """
    with writing(target) as sink:
        with registry.reading() as session:
            revision = schema.current(session.connection())
            if revision is None:
                raise RegistryError("the database holds no registry: there is nothing to back up")
            known = _named(registry, session, damaged)
            tables = [_export(session, table, number, sink) for number, table in enumerate(_tables(session, texts))]
        copied, missing = _copy(registry, known, sink, damaged, tell)
        manifest = pack(
            {
                "format": FORMAT,
                "schema": revision,
                "created_at": datetime.now(UTC).isoformat(),
                "database": registry.database.dialect,
                "tables": tables,
                "artifacts": [_told(entry) for entry in copied],
                "missing": missing,
            }
        )
        sink.add(MANIFEST, manifest)
    return Made(
        hashlib.sha256(manifest).hexdigest(),
        revision,
        {table["name"]: table["rows"] for table in tables},
        len(copied),
        sum(entry.size for entry in copied),
        missing,
    )


def _named(registry: Registry, session: Session, damaged: bool) -> Named:
    def fetch(digest: str) -> bytes:
        try:
            return registry.fetch(digest)
        except (ArtifactMissing, ArtifactCorrupt):
            if damaged:
                return b"{}"  # what it names is not known; that it is missing is told when it is to be copied
            raise

    return named(session, fetch)


def _tables(session: Session, texts: bool) -> Iterator[Table]:
    """The tables that the database has, those that others refer to first."""
    present = set(inspect(session.connection()).get_table_names())
    for table in Base.metadata.sorted_tables:
        if table.name in present and table.name not in _NEVER and (texts or table.name != _TEXTS):
            yield table


def _export(session: Session, table: Table, number: int, sink: Sink) -> dict[str, Any]:
    """Write a table's rows; what the manifest tells of it."""
    present = {column["name"] for column in inspect(session.connection()).get_columns(table.name)}
    if unknown := present - {column.name for column in table.columns}:
        raise RegistryError(
            f"table {table.name} has columns this Driftline does not know: {', '.join(sorted(unknown))}"
        )
    columns = [column for column in table.columns if column.name in present]
    kinds = [(column.name, kind_of(column.type)) for column in columns]
    query = select(*columns).order_by(*(column for column in table.primary_key))
    entries: list[Entry] = []
    rows = 0
    found = session.execute(query.execution_options(yield_per=ROWS_AN_ENTRY))
    for part in found.partitions(ROWS_AN_ENTRY):
        lines = b"".join(
            orjson.dumps([_plain(value) for value in row], option=orjson.OPT_APPEND_NEWLINE) for row in part
        )
        entry = Entry.of(f"tables/{number:02}-{table.name}-{len(entries)}.jsonl", lines)
        sink.add(entry.name, lines)
        entries.append(entry)
        rows += len(part)
    return {"name": table.name, "columns": kinds, "rows": rows, "entries": [_told(entry) for entry in entries]}


def kind_of(type_: TypeEngine[Any]) -> str:
    """What values of a column are in a backup: instant, date, json, bytes, integer, float, boolean or text."""
    if isinstance(type_, Instant):
        return "instant"
    kinds: tuple[tuple[type[TypeEngine[Any]], str], ...] = (
        (Date, "date"), (JSON, "json"), (LargeBinary, "bytes"), (Boolean, "boolean"),
        (BigInteger, "integer"), (Integer, "integer"), (Float, "float"), (Enum, "text"),
    )  # fmt: skip
    return next((kind for known, kind in kinds if isinstance(type_, known)), "text")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _copy(
    registry: Registry, known: Named, sink: Sink, damaged: bool, tell: Callable[[int, int], None]
) -> tuple[list[Entry], dict[str, str]]:
    """Copy every artifact that is named and there; those that are needed and are not, with what needs them."""
    sizes = {each.digest: each.size for each in registry.artifacts.entries() if each.digest in known}
    copied: list[Entry] = []
    missing: dict[str, str] = {}
    done = told = 0
    for digest in sorted({*known.needed, *sizes}):
        try:
            data = registry.fetch(digest)
        except (ArtifactMissing, ArtifactCorrupt) as error:
            if digest not in known.needed:
                continue
            if not damaged:
                raise RegistryError(f"{known.needed[digest]} cannot be backed up: {error}") from error
            missing[digest] = known.needed[digest]
            continue
        entry = Entry(f"artifacts/{digest[:2]}/{digest}", digest, len(data))
        sink.add(entry.name, data)
        copied.append(entry)
        done += len(data)
        if done - told >= _TELL_EVERY:
            told = done
            tell(done, sum(sizes.values()))
    return copied, missing


def _told(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "sha256": entry.sha256, "size": entry.size}
