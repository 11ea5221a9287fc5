"""Both databases for every test of the registry: a SQLite file, and a real PostgreSQL server started here."""

import contextlib
import glob
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from registry import backbones, datasets, versions
from registry.home import Home
from registry.registry import Registry

BACKBONE = "b" * 64
CSV = b"text,label\nwhere is my card,card\nmy card has not come,card\nI lost my PIN,pin\nreset the PIN please,pin\n"


def _program(name: str) -> str | None:
    """A PostgreSQL program; distributions keep the server's out of PATH."""
    places = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)  # noqa: PTH207
    return shutil.which(name) or next(iter(places), None)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server on loopback, started for this session and stopped at its end."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL server is installed (initdb and pg_ctl were looked for)")
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    # Not under pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="driftline-postgresql-"))
    who = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, **who)
        assert done.returncode == 0, done.stdout + done.stderr

    data = str(folder / "data")
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=60 -c fsync=off"
    )
    try:
        run(initdb, "-D", data, "-U", "driftline", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        run(pg_ctl, "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql://driftline@127.0.0.1:{port}/postgres"
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _fresh_database(server: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """An untouched home on each database in turn."""
    if request.param == "sqlite":
        yield Home.at(tmp_path / "home", f"sqlite:///{tmp_path}/home/registry.sqlite")
        return
    with _fresh_database(request.getfixturevalue("postgresql_server")) as url:
        yield Home.at(tmp_path / "home", url)


@pytest.fixture
def registry(home: Home) -> Iterator[Registry]:
    """An open registry on each database in turn."""
    registry = home.registry()
    yield registry
    registry.close()


@pytest.fixture
def stocked(registry: Registry) -> Registry:
    """A registry with a backbone, the adapter `banking` without versions, and the dataset `support`."""
    with registry.writing() as session:
        manifest = {"name": "MiniLM", "dimension": 384, "max_tokens": 256, "source": "test"}
        backbones.add(session, manifest, BACKBONE)
        versions.ensure_adapter(session, "banking", BACKBONE)
        datasets.add(session, registry.artifacts, "support", CSV, "csv")
    return registry


@pytest.fixture
def publish(stocked: Registry) -> Callable[..., versions.Version]:
    """Publish one more version of `banking`."""

    def publish(*, rejected: bool = False, job_id: str | None = None) -> versions.Version:
        with stocked.writing() as session:
            return versions.publish(
                session,
                adapter="banking",
                digest="d" * 64,
                kind="head",
                backbone=BACKBONE,
                reference=None,
                parent=None,
                job_id=job_id,
                dataset="support@1",
                metrics={"accuracy": 0.9},
                verdict=None,
                rejected=rejected,
            )

    return publish


class Racers:
    """Real processes that run the same lines at the same moment (see racer.py)."""

    def __init__(self) -> None:
        self.home: Home
        self._idle: list[subprocess.Popen[str]] = []

    def start(self, number: int, script: str) -> subprocess.Popen[str]:
        """Hand a script to a racer; its answers come as lines of JSON."""
        if not self._idle:
            command = [sys.executable, str(Path(__file__).with_name("racer.py"))]
            self._idle.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        racer = self._idle.pop()
        race = {"script": script, "data_dir": str(self.home.data_dir), "url": self.home.database_url, "number": number}
        self.send(racer, json.dumps(race))
        return racer

    def run(self, count: int, script: str) -> list[str]:
        """Race `count` processes and return what each said; a failure in one fails the test."""
        running = [self.start(number, script) for number in range(count)]
        assert [self.receive(racer) for racer in running] == [{"ready": True}] * count
        for racer in running:
            self.send(racer, "go")
        outcomes = [self.receive(racer) for racer in running]
        self._idle += running
        assert all("said" in outcome for outcome in outcomes), outcomes
        return [" ".join(outcome["said"]) for outcome in outcomes]

    @staticmethod
    def send(racer: subprocess.Popen[str], line: str) -> None:
        """Write one line to a racer."""
        assert racer.stdin is not None
        racer.stdin.write(line + "\n")
        racer.stdin.flush()

    @staticmethod
    def receive(racer: subprocess.Popen[str]) -> dict[str, Any]:
        """Read one answer; an empty one when the racer is dead."""
        assert racer.stdout is not None
        line = racer.stdout.readline()
        # A line without its end was cut off by the racer's death: it was never sent.
        return dict(json.loads(line)) if line.endswith("\n") else {}

    def dismiss(self) -> None:
        """End the idle racers."""
        for racer in self._idle:
            with racer:
                assert racer.stdin is not None
                racer.stdin.close()
                racer.wait(timeout=30)


@pytest.fixture(scope="session")
def all_racers() -> Iterator[Racers]:
    """Racers that serve the whole session."""
    racers = Racers()
    yield racers
    racers.dismiss()


@pytest.fixture
def racers(home: Home, all_racers: Racers) -> Racers:
    """Processes that race each other on the test's home."""
    all_racers.home = home
    return all_racers
