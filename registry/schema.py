"""The schema's migrations: run from the package, by one process at a time, never on a schema from the future."""

from collections.abc import Callable

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from registry.errors import RegistryError, SchemaTooNew


def current(connection: Connection) -> str | None:
    """The revision of the database's schema, None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision this program's tables need."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise RegistryError("this installation carries no migrations")
    return revision


def is_current(connection: Connection) -> bool:
    """Whether the database needs no migration. Raises SchemaTooNew when it is ahead of this program."""
    found = current(connection)
    _refuse_unknown(found)
    return found == head()


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Migrate up to `revision` in one transaction. Raises SchemaTooNew when the database is ahead of this program.

    `connection` must come from `Database.connection()`: its transactions take the writer's turn, so of several
    processes that start at once one migrates and the others find the work done.
    """
    _migrate(connection, lambda config: command.upgrade(config, revision))


def downgrade(connection: Connection, revision: str) -> None:
    """Migrate down to `revision` ("base" empties the database) in one transaction. Raises SchemaTooNew."""
    _migrate(connection, lambda config: command.downgrade(config, revision))


def _migrate(connection: Connection, run: Callable[[Config], None]) -> None:
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        # Rebuilding a table drops it, which would delete the rows that refer to it; the switch works only outside a
        # transaction. What the migration left is checked before it is committed.
        _switch_foreign_keys(connection, "OFF")
    try:
        with connection.begin():
            _refuse_unknown(current(connection))
            config = _config()
            config.attributes["connection"] = connection
            run(config)
            if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise RegistryError("the migration would leave rows that refer to nothing; nothing was changed")
    finally:
        if sqlite:
            _switch_foreign_keys(connection, "ON")


def _switch_foreign_keys(connection: Connection, to: str) -> None:
    driver = connection.connection.driver_connection
    if driver is not None:
        driver.execute(f"PRAGMA foreign_keys = {to}")


def knows(revision: str) -> bool:
    """Whether a revision is this program's or an older one."""
    return revision in revisions()


def revisions() -> list[str]:
    """Every revision this program knows, oldest first."""
    return [script.revision for script in _scripts().walk_revisions()][::-1]


def _refuse_unknown(revision: str | None) -> None:
    if revision is not None and not knows(revision):
        raise SchemaTooNew(revision, head())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "registry:migrations")
    return config
