"""The schema and the migrations say the same, on both databases, and a schema from the future is refused."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from registry import events, rollouts, schema, versions
from registry.database import Database
from registry.errors import SchemaTooNew
from registry.home import Home
from registry.tables import Base


def _only(index: Any) -> str:
    """The condition of a partial index."""
    options = index.get("dialect_options", {})
    return " ".join(str(value) for name, value in sorted(options.items()) if name.endswith("where"))


def _picture(connection: Connection) -> dict[str, Any]:
    """Everything the database says about its tables, in a form that can be compared."""
    inspector = inspect(connection)
    picture = {}
    for table in sorted(inspector.get_table_names()):
        if table == "alembic_version":
            continue
        picture[table] = {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(table)],
            "primary": inspector.get_pk_constraint(table),
            "unique": sorted((str(u["name"]), u["column_names"]) for u in inspector.get_unique_constraints(table)),
            "foreign": sorted((str(f["name"]), f["referred_table"]) for f in inspector.get_foreign_keys(table)),
            "checks": sorted((str(c["name"]), c["sqltext"]) for c in inspector.get_check_constraints(table)),
            "indexes": sorted(
                (str(i["name"]), i["column_names"], i["unique"], _only(i)) for i in inspector.get_indexes(table)
            ),
        }
    return picture


@pytest.fixture
def database(home: Home) -> Any:
    home.data_dir.mkdir(parents=True)
    database = Database(home.database_url)
    yield database
    database.close()


def test_migrations_build_exactly_the_tables_of_the_models(database: Database) -> None:
    database.migrate()
    with database.connection() as connection, connection.begin():
        assert (
            compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata) == []
        )
        migrated = _picture(connection)
    with database.connection() as connection:
        schema.downgrade(connection, "base")
    with database.connection() as connection, connection.begin():
        assert _picture(connection) == {}
        Base.metadata.create_all(connection)
        assert _picture(connection) == migrated
    assert set(migrated) == set(Base.metadata.tables)
    assert any("queued" in condition for *_, condition in migrated["jobs"]["indexes"])
    unnamed = [
        name for table in migrated.values() for kind in ("unique", "foreign", "checks") for name, _ in table[kind]
    ]
    assert unnamed
    assert "None" not in unnamed


def test_up_down_up_ends_where_it_began(database: Database) -> None:
    database.migrate()
    with database.connection() as connection:
        with connection.begin():
            before = _picture(connection)
        schema.downgrade(connection, "base")
        schema.upgrade(connection)
        with connection.begin():
            assert _picture(connection) == before
            assert schema.current(connection) == schema.head()
    database.migrate()
    with database.writing() as session:
        assert events.record(session, "test", "after the tour").id == 1


def test_a_schema_from_the_future_is_refused_and_left_alone(home: Home, database: Database) -> None:
    database.migrate()
    with database.connection() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for attempt in (home.registry, database.migrate):
        with pytest.raises(SchemaTooNew, match=r"9999.*Upgrade this program"):
            attempt()
    with database.connection() as connection, connection.begin():
        assert schema.current(connection) == "9999"


def test_a_failing_migration_leaves_nothing_behind(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    upgrade = command.upgrade

    def upgrade_then_fail(*args: Any, **kwargs: Any) -> None:
        upgrade(*args, **kwargs)
        raise RuntimeError("the power went")

    monkeypatch.setattr(command, "upgrade", upgrade_then_fail)
    with pytest.raises(RuntimeError):
        database.migrate()
    monkeypatch.undo()
    with database.connection() as connection, connection.begin():
        assert inspect(connection).get_table_names() == []
    database.migrate()


def test_a_database_of_the_first_schema_keeps_its_rows_and_takes_rollouts(database: Database) -> None:
    """What an older program left is as it was after the upgrade; going back takes only the new tables."""
    digest, at = "b" * 64, "2026-01-02 03:04:05"
    with database.connection() as connection:
        schema.upgrade(connection, "0001")
        with connection.begin():
            for statement in (
                "INSERT INTO backbones (id, name, digest, dimension, max_tokens, source, manifest, created_at) "
                f"VALUES (1, 'MiniLM', '{digest}', 384, 256, 'test', '{{}}', '{at}')",
                f"INSERT INTO adapters (name, backbone, created_at) VALUES ('banking', '{digest}', '{at}')",
                *(
                    "INSERT INTO versions "
                    "(adapter, number, digest, state, kind, backbone, dataset, metrics, created_at) "
                    f"VALUES ('banking', {number}, '{digest}', '{state}', 'head', '{digest}', 'd@1', '{{}}', '{at}')"
                    for number, state in ((1, "live"), (2, "candidate"))
                ),
            ):
                connection.exec_driver_sql(statement)
    database.migrate()
    with database.writing() as session:
        assert [v.number for v in versions.history(session, "banking")] == [2, 1]
        started = rollouts.start(session, "banking", 2, rules={"mode": "shadow"}, by="ann")
        rollouts.put_counts(session, started.id, "one", {"observations": 1})
    with database.connection() as connection:
        with connection.begin():
            assert schema.current(connection) == schema.head()
        schema.downgrade(connection, "0001")
        with connection.begin():
            assert not {"rollouts", "rollout_counts"} & set(inspect(connection).get_table_names())
    database.migrate()
    with database.reading() as session:
        assert versions.get_adapter(session, "banking").live == 1
        assert rollouts.all_active(session) == []
