"""A registry as an earlier release left it is opened by this one: every row is there, and one process migrates it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import inspect, select, text

from registry import datasets, events, jobs, keys, readings, schema, versions
from registry.database import Database
from registry.errors import SchemaTooNew
from registry.home import Home
from registry.jobs import JobState
from registry.keys import Scope
from registry.registry import Registry
from registry.tables import Base, now


def used(stocked: Registry, publish: Callable[..., versions.Version]) -> str:
    """Leave rows in every table that the first schema has; gives a key's secret."""
    for _ in range(2):
        publish()
    with stocked.writing() as session:
        versions.promote(session, "banking", 1, by="ann")
        versions.promote(session, "banking", 2, by="ann")
        _, secret = keys.issue(session, "app", [Scope.EMBED, Scope.READ], now() + timedelta(days=9))
        readings.add(session, adapter="banking", version=2, window_n=5, statistics={"x": 0.5}, cells=[1, 4], alarm=True)
        readings.put_state(session, "banking", 2, state={"n": 5}, alarm_active=True)
        done = jobs.enqueue(session, adapter="banking", dataset="support", requested_by="ann")
        jobs.start(session, done.id)
        jobs.finish(session, done.id, JobState.FAILED, error="too few rows")
        jobs.enqueue(session, adapter="banking", dataset="support", requested_by="ann", recipe={"seed": 3})
    return secret


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table that there is, by column, as the database holds it."""
    with database.reading() as session:
        present = inspect(session.connection()).get_table_names()
        return {
            name: sorted(
                (dict(row._mapping) for row in session.execute(select(text("*")).select_from(text(name)))), key=repr
            )
            for name in present
            if name != "alembic_version"
        }


@pytest.fixture(params=["0001", "0002"])
def older(
    request: pytest.FixtureRequest, stocked: Registry, publish: Callable[..., versions.Version]
) -> tuple[Registry, str]:
    """A registry in use that was taken back to an older schema, and a key's secret."""
    secret = used(stocked, publish)
    with stocked.database.connection() as connection:
        schema.downgrade(connection, request.param)
    return stocked, secret


def test_every_row_of_an_older_schema_is_there_afterwards_and_can_be_worked_with(
    older: tuple[Registry, str], home: Home
) -> None:
    registry, secret = older
    before = contents(registry.database)
    assert {name for name, rows in before.items() if rows} >= {
        "backbones", "adapters", "versions", "promotions", "datasets", "jobs", "job_events", "keys", "readings",
        "monitors", "events",
    }  # fmt: skip
    assert "key_limits" not in before
    again = home.registry()
    after = contents(again.database)
    assert set(after) == set(Base.metadata.tables)
    for name, rows in before.items():
        kept = [{column: row[column] for column in rows[0]} for row in after[name]] if rows else after[name]
        assert sorted(kept, key=repr) == rows, name
    with again.writing() as session:
        assert schema.current(session.connection()) == schema.head()
        assert versions.rollback(session, "banking", by="bob").number == 1
        key = keys.verifier(session).check(secret)
        assert key is not None
        assert key.retain_days is None
        (waiting,) = [job for job in jobs.all(session) if job.state is JobState.QUEUED]
        assert jobs.start(session, waiting.id).recipe == {"seed": 3}
        state = readings.get_state(session, "banking", 2)
        assert state is not None
        assert state.alarm_active
        assert readings.latest(session, "banking")[0].statistics == {"x": 0.5}
        assert datasets.load_rows(again.artifacts, datasets.get(session, "support"))
        last = events.latest_id(session)
        assert events.record(session, "test", "goes on").id == last + 1
    again.close()


def test_several_processes_that_start_on_an_older_schema_migrate_it_once(
    older: tuple[Registry, str], racers: Any
) -> None:
    registry, _ = older
    found = racers.run(
        4,
        """
ready()
registry = home.registry()
with registry.reading() as session:
    say(len(versions.history(session, "banking")), len(jobs.all(session)))
""",
    )
    assert found == ["2 2"] * 4
    with registry.reading() as session:
        assert schema.current(session.connection()) == schema.head()


def test_a_newer_schema_is_refused_in_words_that_name_both(home: Home, stocked: Registry) -> None:
    with stocked.database.connection() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match=rf"schema 9999, and this Driftline knows those up to {schema.head()}"):
        home.registry()
    with stocked.database.connection() as connection, connection.begin():
        assert schema.current(connection) == "9999"
