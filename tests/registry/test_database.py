"""Transactions: what is acknowledged stays, what fails leaves nothing, readers cannot write, writers take turns."""

import os
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from registry import database as database_module
from registry import events
from registry.database import Database
from registry.errors import RegistryError, Unavailable
from registry.home import Home
from registry.registry import Registry
from registry.tables import EventRecord


def test_a_failed_write_leaves_nothing(registry: Registry) -> None:
    def fail() -> None:
        with registry.writing() as session:
            events.record(session, "lost", "x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with registry.reading() as session:
        assert events.latest_id(session) == 0


def test_a_reader_cannot_write_and_a_writer_after_it_can(registry: Registry) -> None:
    for _ in range(3):  # the pool hands out the same connection in turn
        with registry.reading() as session, pytest.raises(DBAPIError):
            events.record(session, "sneaked", "x")
        with registry.writing() as session:
            events.record(session, "written", "x")
    with registry.reading() as session:
        assert session.scalars(select(EventRecord.kind)).all() == ["written"] * 3


def test_a_reader_sees_one_state_while_others_write(registry: Registry) -> None:
    with registry.reading() as reader:
        before = events.latest_id(reader)
        with registry.writing() as session:
            events.record(session, "meanwhile", "x")
        assert events.latest_id(reader) == before
    with registry.reading() as reader:
        assert events.latest_id(reader) == before + 1


def test_work_before_the_first_statement_keeps_nobody_waiting(registry: Registry) -> None:
    with registry.writing(), registry.writing() as other:
        events.record(other, "not delayed", "x")
    with registry.reading() as session:
        assert events.latest_id(session) == 1


def test_a_writer_that_waits_too_long_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 1)
    registry = home.registry()
    with registry.writing() as holder:
        events.record(holder, "held", "x")
        with pytest.raises(Unavailable), registry.writing() as session:
            events.record(session, "late", "x")
    registry.close()


def test_acknowledged_writes_survive_kill_9(home: Home, racers: Any) -> None:
    home.registry().close()
    writer = racers.start(
        0,
        """
registry = home.registry()
for n in range(100_000):
    with registry.writing() as session:
        event = events.record(session, "ledger", str(n))
    acknowledge(event.subject)
""",
    )
    said = [racers.receive(writer)["acknowledged"] for _ in range(60)]
    os.kill(writer.pid, signal.SIGKILL)
    while late := racers.receive(writer):
        said.append(late["acknowledged"])
    with writer:
        writer.wait()
    registry = home.registry()
    with registry.reading() as session:
        kept = [event.subject for event in session.scalars(select(EventRecord).order_by(EventRecord.id))]
    # Everything acknowledged is there, in order, and at most the one write that was under way besides.
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1
    with registry.writing() as session:
        events.record(session, "alive", "x")
    registry.close()


def test_processes_that_start_at_once_migrate_once(home: Home, racers: Any) -> None:
    printed = racers.run(
        5,
        """
ready()
registry = home.registry()
with registry.writing() as session:
    say(events.record(session, "started", str(number)).id)
registry.close()
""",
    )
    assert sorted(map(int, printed)) == [1, 2, 3, 4, 5]


def test_a_poller_misses_no_event_of_concurrent_writers(home: Home, racers: Any) -> None:
    home.registry().close()
    printed = racers.run(
        4,
        """
from sqlalchemy import select, text
from registry.tables import EventRecord
registry = home.registry()
ready()
if number:
    for n in range(40):
        with registry.writing() as session:
            events.record(session, "tick", f"{number}/{n}")
            time.sleep(0.001)
else:
    last, seen, deadline = 0, 0, time.monotonic() + 50
    while seen < 120 and time.monotonic() < deadline:
        with registry.reading() as session:
            query = select(EventRecord).where(EventRecord.id > last).order_by(EventRecord.id)
            found = session.scalars(query).all()
        seen += len(found)
        last = found[-1].id if found else last
    say(seen)
registry.close()
""",
    )
    assert printed[0] == "120"


def test_a_home_is_private_and_honours_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRIFTLINE_DATABASE_URL", raising=False)
    monkeypatch.setenv("DRIFTLINE_DATA_DIR", str(tmp_path / "from env%20?"))
    home = Home.at()
    home.registry().close()
    assert (tmp_path / "from env%20?" / "registry.sqlite").is_file()
    for folder in (home.data_dir, home.artifacts_dir, home.work_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert home.jobs_url != home.database_url
    engine = home.jobs_url
    assert Home.at(tmp_path / "x").data_dir == tmp_path / "x"
    monkeypatch.setenv("DRIFTLINE_DATABASE_URL", "postgresql://u:secret@db/x")
    assert Home.at().database_url == "postgresql://u:secret@db/x"
    assert Home.at().jobs_url == engine  # beside the work folders, wherever the registry is
    assert "secret" not in repr(Home.at())
    monkeypatch.delenv("DRIFTLINE_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Home.at().data_dir == tmp_path / "driftline"


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense", ""])
def test_other_databases_are_refused_in_words(url: str) -> None:
    with pytest.raises(RegistryError, match="database"):
        Database(url)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    database = Database("postgresql://somebody:sesame@127.0.0.1:9/nowhere")
    with pytest.raises(Unavailable) as caught:
        database.migrate()
    assert "sesame" not in str(caught.value)
    database.close()


def test_a_server_that_does_not_answer_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "CONNECT_SECONDS", 2)  # libpq waits for two seconds at least
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        database = Database(f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/nowhere")
        started = time.monotonic()
        with pytest.raises(Unavailable), database.reading() as session:
            events.latest_id(session)
        assert time.monotonic() - started < 10
        database.close()


def test_what_a_database_says_becomes_the_registry_s_own_error(registry: Registry) -> None:
    def nonsense() -> None:
        with registry.writing() as session:
            session.execute(text("INSERT INTO alembic_version VALUES (NULL)"))

    with pytest.raises(RegistryError, match="refused a statement") as refused:
        nonsense()
    assert not isinstance(refused.value, Unavailable)


def test_a_damaged_file_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"not a database, " * 1000)
    database = Database(f"sqlite:///{tmp_path}/x.sqlite")
    with pytest.raises(Unavailable), database.reading() as session:
        events.latest_id(session)
    database.close()


def test_sqlite_keeps_acknowledged_writes_through_a_power_cut(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.sqlite")
    with database.connection() as connection, connection.begin():
        asked = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
        assert asked == {"journal_mode": "wal", "synchronous": 2}
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()
