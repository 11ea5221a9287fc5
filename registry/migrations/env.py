"""What Alembic runs: `registry.schema` hands over the connection; on the command line the home's database is used."""

from alembic import context
from sqlalchemy import Connection

from registry.tables import Base


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite cannot alter most things in place: Alembic rebuilds the table instead.
        render_as_batch=True,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _from_command_line() -> None:
    from registry.database import Database
    from registry.home import Home

    database = Database(Home.at().database_url)
    with database.connection() as connection, connection.begin():
        _run(connection)
    database.close()


_given = context.config.attributes.get("connection")
if _given is None:
    _from_command_line()
else:
    _run(_given)
