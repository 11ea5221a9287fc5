"""The worker and its databases: a registry that goes away for a while, and PostgreSQL with a worker that is killed."""

import contextlib
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from registry import jobs, versions
from registry.home import Home
from registry.jobs import Job, JobState
from registry.registry import Registry
from training.worker import executor_name

QUICK = {"steps": 24, "hidden": 64}
# Long enough to be interrupted in the middle of the fit.
ENDLESS = {"steps": 100_000, "patience": 10_000, "hidden": 64}


def enqueue(registry: Registry, recipe: dict[str, Any]) -> str:
    with registry.writing() as session:
        return jobs.enqueue(session, adapter="desk", dataset="small", recipe=recipe, requested_by="test").id


def wait_until(registry: Registry, job_id: str, reached: Callable[[Job], bool], within_s: float = 60.0) -> Job:
    deadline = time.monotonic() + within_s
    while True:
        with registry.reading() as session:
            job = jobs.get(session, job_id)
        if reached(job):
            return job
        assert time.monotonic() < deadline, f"{job.state} {job.step} {job.progress} {job.error}"
        time.sleep(0.05)


def fitting(job: Job) -> bool:
    return job.step == "fit" and job.progress > 0.45


def wait_for_log(home: Home, *events: str, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not all(event in (home.data_dir / "worker.log").read_text() for event in events):
        assert time.monotonic() < deadline, events
        time.sleep(0.05)


def cancel_and_stop(registry: Registry, job_id: str, process: "subprocess.Popen[bytes]") -> None:
    with registry.writing() as session:
        jobs.request_cancel(session, job_id)
    job = wait_until(registry, job_id, lambda job: job.state.finished, within_s=20)
    assert (job.state, job.attempts) == (JobState.CANCELLED, 1)
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_a_registry_that_goes_away_for_a_while_costs_no_job(small_home: Home, kill_table: Any) -> None:
    registry = small_home.registry()
    job_id = enqueue(registry, ENDLESS)
    with kill_table.worker(small_home) as process:
        wait_until(registry, job_id, fitting)
        with contextlib.closing(sqlite3.connect(small_home.data_dir / "registry.sqlite", timeout=20)) as database:
            database.execute("ALTER TABLE jobs RENAME TO gone")
            wait_for_log(small_home, "worker.sweep_failed", "worker.database_away")
            assert process.poll() is None
            database.execute("ALTER TABLE gone RENAME TO jobs")
        wait_until(registry, job_id, fitting)
        cancel_and_stop(registry, job_id, process)
    registry.close()


@contextlib.contextmanager
def closed_to_all(home: Home) -> Iterator[None]:
    """A PostgreSQL database that ends every connection and takes no new one."""
    url = make_url(home.database_url)
    engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as server:
        server.exec_driver_sql(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
        server.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
        )
        yield
        server.exec_driver_sql(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")
    engine.dispose()


def test_on_postgresql_a_killed_worker_takes_its_job_up_again_and_outlives_a_lost_database(
    postgresql_home: Home, kill_table: Any
) -> None:
    registry = postgresql_home.registry()
    job_id = enqueue(registry, QUICK)
    with kill_table.worker(postgresql_home, "fit.during") as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
    name = (postgresql_home.data_dir / "worker.id").read_text()
    with kill_table.worker(postgresql_home) as process:
        job = wait_until(registry, job_id, lambda job: job.state.finished)
        assert (job.state, job.attempts, job.version) == (JobState.SUCCEEDED, 2, 1)
        with registry.reading() as session:
            assert [version.job_id for version in versions.history(session, "desk")] == [job_id]
        # The next job starts, and survives what a restart of the database would do to it.
        second = enqueue(registry, ENDLESS)
        wait_until(registry, second, fitting)
        with closed_to_all(postgresql_home):
            wait_for_log(postgresql_home, "worker.sweep_failed", "worker.database_away")
            assert process.poll() is None
        wait_until(registry, second, fitting)
        cancel_and_stop(registry, second, process)
    assert (postgresql_home.data_dir / "worker.id").read_text() == name
    registry.close()


def test_a_worker_keeps_its_name_whatever_the_host_is_called(small_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRIFTLINE_WORKER_ID", raising=False)
    assert executor_name(small_home) == "worker"
    home = Home.at(small_home.data_dir, "postgresql://nobody@localhost/nothing")
    name = executor_name(home)
    assert socket.gethostname() not in name
    assert executor_name(home) == name == (home.data_dir / "worker.id").read_text().strip()
    monkeypatch.setenv("DRIFTLINE_WORKER_ID", "blue")
    assert executor_name(home) == "blue"
