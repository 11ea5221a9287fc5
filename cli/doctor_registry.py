"""Checks of the registry: database, schema, keys, artifacts, worker and jobs. Nothing is migrated or made."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from cli.doctor_check import Check, guarded, ok, problem, warning
from registry.errors import SchemaTooNew, Unavailable
from registry.home import Home

if TYPE_CHECKING:
    from registry.checkup import DatabaseFacts
    from registry.database import Database
    from service.settings import Settings

CLOCK_SECONDS: Final = 2.0
BEAT_SECONDS: Final = 11.0
"""A worker beats at least every ten seconds."""
WAITS_SECONDS: Final = 600.0
SILENT_SECONDS: Final = 3600.0
ENDING_SECONDS: Final = 7 * 86_400.0
_SHOWN: Final = 5


def registry(home: Home, settings: "Settings | None", *, deep: bool) -> Iterator[Check]:
    """The database first; the rest only where it can be read and is of this program's schema."""
    from registry import checkup
    from registry.database import Database

    file = checkup.sqlite_file(home.database_url)
    if file is not None and not file.exists():
        yield ok("database", f"sqlite:{file} does not exist yet; the first start makes it")
        yield from _exposure(settings, 0)
        return
    database = Database(home.database_url)
    try:
        try:
            facts = checkup.database_facts(database, home.database_url, deep=deep)
        except SchemaTooNew as error:
            yield problem("schema", str(error), "upgrade this program")
            return
        except Unavailable as error:
            seen = f"{checkup.place_of(home.database_url)}: {error}"
            yield problem("database", seen, "start it, or check DRIFTLINE_DATABASE_URL; what serves goes on meanwhile")
            return
        yield from _database(facts)
        if facts.pending:
            waits = ", ".join(facts.pending)
            seen = f"revision {facts.revision or 'none'}; {waits} are to come"
            yield warning("schema", seen, "the next start of any command migrates; make a backup first")
            return
        yield ok("schema", f"revision {facts.revision}, as this program needs it")
        looks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
            ("keys", lambda: _keys(database, settings)),
            ("artifacts", lambda: _artifacts(home, database, deep=deep)),
            ("worker", lambda: _worker(home, database, deep=deep)),
        )
        for name, look in looks:
            yield from guarded(name, look)
    finally:
        database.close()


def _database(facts: "DatabaseFacts") -> Iterator[Check]:
    told = ", ".join(f"{name} {value}" for name, value in facts.settings.items())
    if facts.settings.get("synchronous_commit") == "off":
        yield warning("database", f"{facts.where}: {told}", "an acknowledged write may be lost; turn it on")
    elif facts.settings.get("journal_mode", "wal") != "wal":
        yield warning("database", f"{facts.where}: {told}", "its file system cannot keep a write-ahead log; move it")
    else:
        yield ok("database", f"{facts.where}: {told}")
    if facts.ahead_seconds is not None and abs(facts.ahead_seconds) > CLOCK_SECONDS:
        seen = f"the database's is {facts.ahead_seconds:+.1f} s from this machine's"
        yield warning("clock", seen, "synchronise the clocks of both machines")


def _keys(database: "Database", settings: "Settings | None") -> Iterator[Check]:
    from registry import checkup

    with database.reading() as session:
        facts = checkup.key_facts(session, ENDING_SECONDS)
    yield from _exposure(settings, facts.valid)
    if facts.valid or facts.revoked:
        seen = f"{facts.valid} valid, {facts.admins} of them admin, {facts.revoked} revoked"
        advice = "driftline key create NAME --scope admin"
        if not facts.admins:
            yield warning("keys", f"{seen}: nobody may use the admin routes", advice)
        elif len(facts.ending) == facts.admins:
            yield warning("keys", f"{seen}; every admin key ends within a week", advice)
        else:
            yield ok("keys", seen)


def _exposure(settings: "Settings | None", valid: int) -> Iterator[Check]:
    if settings is None or valid:
        return
    if settings.loopback:
        yield ok("keys", f"none, and {settings.host} is reached from this machine only")
    else:
        seen = f"none, and DRIFTLINE_HOST is {settings.host}: the service will refuse to start"
        yield problem("keys", seen, "driftline key create NAME --scope admin")


def _artifacts(home: Home, database: "Database", *, deep: bool) -> Iterator[Check]:
    from registry import checkup

    if not home.artifacts_dir.is_dir() and home.artifacts_url is None:
        yield problem("artifacts", f"{home.artifacts_dir} is missing", "restore a backup")
        return
    store = home.artifacts()
    with database.reading() as session:
        facts = checkup.artifact_facts(session, store.get, store.has, deep=deep)
    if facts.faults:
        more = f" and {len(facts.faults) - _SHOWN} more" if len(facts.faults) > _SHOWN else ""
        yield problem("artifacts", "; ".join(facts.faults[:_SHOWN]) + more, "restore them from a backup")
    elif deep:
        yield ok("artifacts", f"{facts.needed} are named, all there with the right digests")
    else:
        yield ok("artifacts", f"{facts.needed} are named, all there (--deep verifies their bytes)")


def _worker(home: Home, database: "Database", *, deep: bool) -> Iterator[Check]:
    from registry import checkup
    from registry.lock import held

    with database.reading() as session:
        jobs = checkup.open_jobs(session)
    others = _beating(database, wait=deep)
    if home.worker_lock.exists() and held(home.worker_lock):
        yield ok("worker", "one runs on this home")
    elif others:
        seen = f"none here; {others} {'beat' if deep else 'are entered in the registry (--deep waits for their beats)'}"
        yield ok("worker", seen)
    elif jobs:
        yield problem(
            "worker", f"none runs, and {len(jobs)} jobs are open", "start driftline serve or driftline worker"
        )
    else:
        yield ok("worker", "none runs, and none is needed now")
    stuck = []
    for job, silent in jobs:
        if silent > (SILENT_SECONDS if job.started_at else WAITS_SECONDS):
            doing = f"in step {job.step or 'start'}" if job.started_at else "waiting"
            stuck.append(f"{job.id} {doing}, silent for {silent / 60:.0f} min")
    if stuck:
        yield warning("jobs", "; ".join(stuck[:_SHOWN]), "driftline job show ID; the worker's log says more")
    else:
        yield ok("jobs", f"{len(jobs)} open, none stuck")


def _beating(database: "Database", *, wait: bool) -> int:
    """How many workers of the registry, on any machine, are entered; with `wait` how many of them beat meanwhile."""
    from registry import claims

    with database.reading() as session:
        before = claims.beats(session)
    if not wait or not before:
        return len(before)
    time.sleep(BEAT_SECONDS)
    with database.reading() as session:
        after = claims.beats(session)
    return sum(count != before.get(worker) for worker, count in after.items())


def default_backbone(home: Home) -> str | None:
    """Digest of the default backbone, None where there is none yet. Raises RegistryError."""
    from registry import backbones, checkup
    from registry.database import Database

    file = checkup.sqlite_file(home.database_url)
    if file is not None and not file.exists():
        return None
    database = Database(home.database_url)
    try:
        with database.reading() as session:
            found = backbones.default(session)
    finally:
        database.close()
    return None if found is None else found.digest
