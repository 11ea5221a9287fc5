"""The one place that knows which database it is: SQLite (WAL) by default, PostgreSQL by URL, and their transactions.

Two scopes: `reading()` sees one consistent picture and cannot write; `writing()` commits on success and undoes
everything on an error. Writers take turns on both dialects (BEGIN IMMEDIATE on SQLite, one advisory lock on
PostgreSQL), so what a writer has read cannot change under it, and the ids of events rise in the order of commits.
Writes here are few and small; the embedding path makes none. A transaction begins with its first statement, so work
before it blocks nobody.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import orjson
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from registry import schema
from registry.errors import RegistryError, Unavailable

LOCK_SECONDS = 30
"""Seconds a writer waits for its turn before it gives up."""
IDLE_SECONDS = 30
"""Seconds between two statements of a writer on PostgreSQL after which its transaction is undone: its program froze."""
CONNECT_SECONDS = 5
"""Seconds to wait for a server's answer to a connection, and for a free one of the pool."""
WRITER_LOCK = 0x6472_6966_746C_696E
"""The advisory lock of PostgreSQL that writers take: the bytes of "driftlin"."""
_WRITES = "driftline_writes"


class Database:
    """A registry's database; safe for threads and for several processes."""

    def __init__(self, url: str) -> None:
        """Prepare the engine; nothing is opened yet. Raises RegistryError for a URL of another kind of database."""
        parsed = _parse(url)
        self.dialect: str = parsed.get_backend_name()
        self._engine = _engine(parsed)
        (_set_up_sqlite if self.dialect == "sqlite" else _set_up_postgresql)(self._engine)
        self._writers = self._engine.execution_options(**{_WRITES: True})

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one committed state and cannot write."""
        with _translated(), Session(self._engine, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are committed, durable, when the block ends, and undone when it raises.

        Raises Unavailable when another writer keeps its turn for longer than `LOCK_SECONDS`.
        """
        with _translated(), Session(self._writers, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A bare connection outside the two scopes, for migrations."""
        with _translated(), self._writers.connect() as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the schema up to this program's; safe when several processes start at once. Raises SchemaTooNew."""
        with _translated():
            with self._engine.connect() as connection:
                if schema.is_current(connection):
                    return
            with self._writers.connect() as connection:
                schema.upgrade(connection)

    def scrub(self, table: str) -> None:
        """End the traces of rows that were deleted from a table, outside of any transaction.

        SQLite: what was overwritten in the log goes into the file, and the log is cut to nothing, unless somebody reads
        at this moment; PostgreSQL: the table is written anew. Backups and a server's archived log keep what they have.
        """
        with self.connection() as connection:
            driver: Any = connection.connection.driver_connection
            if self.dialect == "sqlite":
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return
            driver.autocommit = True
            try:
                driver.execute(f"VACUUM (FULL) {table}")
            finally:
                driver.autocommit = False

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _parse(url: str) -> URL:
    # Heroku and friends still hand out the old scheme.
    if url.startswith("postgres://"):
        url = "postgresql://" + url.removeprefix("postgres://")
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RegistryError("the database URL cannot be read") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise RegistryError("the database URL must begin with sqlite:/// or postgresql://")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise RegistryError("the registry needs a database file: several processes share it")
    return parsed


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {
        # Statements reach logs and messages; what they carry must not.
        "hide_parameters": True,
        "json_serializer": _to_json,
        "json_deserializer": orjson.loads,
    }
    if url.get_backend_name() == "postgresql":
        options["pool_pre_ping"] = True
        options["pool_timeout"] = CONNECT_SECONDS
        # A server that is gone without a word must not hold threads for the minutes TCP would wait; what the URL
        # itself says wins.
        patience = {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": CONNECT_SECONDS,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 2_000 * CONNECT_SECONDS,
        }
        options["connect_args"] = {name: value for name, value in patience.items() if name not in url.query}
    try:
        return create_engine(url, **options)
    except ModuleNotFoundError:
        raise RegistryError("PostgreSQL needs the extra: pip install 'driftline[postgres]'") from None
    except NoSuchModuleError:
        raise RegistryError("the database URL names a driver that is not known") from None


def _to_json(value: object) -> str:
    # NaN and infinity become null: PostgreSQL refuses them, and SQLite would keep what JSON readers refuse.
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


def _set_up_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        # The driver's own transactions begin too late (not on SELECT, not on DDL): we begin them ourselves.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
        _switch_to_wal(connection)
        # FULL: an acknowledged write survives a power cut, not only a killed process.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch a new database file to the write-ahead log, which the file then remembers.

    SQLite does not wait when another process switches at the same moment, it says "locked" at once; so we wait here.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _set_up_postgresql(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITES, False):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            # Else a writer that froze in the middle would keep everybody's turn until it wakes.
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn whatever the database says into the registry's own error."""
    try:
        yield
    except (IntegrityError, DataError, ProgrammingError) as error:
        # The database is there, and refuses what this program asks of it.
        raise RegistryError(f"the registry's database refused a statement ({type(error.orig).__name__})") from error
    except DBAPIError as error:
        # SQLite's own words are a short fixed list; a PostgreSQL driver's name hosts and users.
        why = str(error.orig) if isinstance(error.orig, sqlite3.Error) else type(error.orig).__name__
        raise Unavailable(f"the registry's database is not available ({why})") from error
    except PoolTimeout as error:
        raise Unavailable("every connection to the registry's database is in use") from error
