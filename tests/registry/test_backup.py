"""Backup and restore: across databases, under writes, of an older schema; damage and crashes leave nothing behind."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry import (
    alerts,
    backbones,
    backup,
    datasets,
    events,
    jobs,
    keys,
    quotas,
    readings,
    restore,
    retained,
    rollouts,
    schema,
    versions,
)
from registry.artifacts import Artifacts
from registry.backup_file import BackupRefused, pack
from registry.database import Database
from registry.errors import RegistryError, SchemaTooNew
from registry.home import Home
from registry.jobs import JobState
from registry.keys import Scope
from registry.registry import Registry
from registry.retained import Sent
from registry.tables import Base, WorkerRecord, now

WEIGHTS = b"weights of a backbone"
MANIFEST = {
    "name": "MiniLM", "dimension": 3, "max_tokens": 4, "source": "test",
    "files": {"model.onnx": {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)}},
}  # fmt: skip
BACKBONE = hashlib.sha256(json.dumps(MANIFEST).encode()).hexdigest()
SKIPPED = {WorkerRecord.__tablename__, "retained"}


def fill(registry: Registry) -> dict[str, Any]:
    """Rows in every table, with artifacts behind them."""
    model, reference = registry.store(b"the weights"), registry.store(b"a reference")
    for data in (WEIGHTS, json.dumps(MANIFEST).encode()):
        registry.store(data)
    with registry.writing() as session:
        backbones.add(session, MANIFEST, BACKBONE)
        versions.ensure_adapter(session, "banking", BACKBONE)
        datasets.add(session, registry.artifacts, "support", b"text,label\na,b\nc,d\n", "csv")
    manifest = json.dumps({"files": {"head.onnx": {"sha256": model, "size": 11}}}).encode()
    digest = registry.store(manifest)
    with registry.writing() as session:
        numbers = [
            versions.publish(
                session, adapter="banking", digest=digest, kind="head", backbone=BACKBONE, reference=reference,
                parent=None, job_id=None, dataset="support@1", metrics={"accuracy": 0.1 + 0.2, "ünï": [None, True]},
                verdict={"outcome": "pass"}, rejected=False,
            ).number
            for _ in range(2)
        ]  # fmt: skip
        versions.promote(session, "banking", numbers[0], by="ann")
        rollouts.start(session, "banking", numbers[1], rules={"mode": "shadow"}, by="ann")
        rollouts.put_counts(session, 1, "one", {"observations": 2**40})
        key, secret = keys.issue(session, "app", [Scope.EMBED], now() + timedelta(days=3), retain_days=2)
        quotas.limit(session, key.id, quotas.KeyLimits(10, None))
        quotas.add_uses(session, date(2026, 1, 2), {key.id: 2**33})
        readings.add(
            session, adapter="banking", version=1, window_n=5, statistics={"x": float("nan")}, cells=[1, 4], alarm=True
        )
        readings.put_state(session, "banking", 1, state={"n": 5}, alarm_active=True)
        sent = Sent(key.id, "a kept text", b"\x00\xff", now(), now() + timedelta(days=2))
        retained.add(session, "banking", 1, [sent], keep=10)
        done = jobs.enqueue(session, adapter="banking", dataset="support", requested_by="ann", reason="why\nnot")
        alerts.claim(session, "f", "s", "banking")
        alerts.attach_job(session, "f", "s", done.id)
    return {"secret": secret, "digest": digest, "key": key.id, "job": done.id}


def rows(registry: Registry) -> dict[str, list[tuple[Any, ...]]]:
    with registry.reading() as session:
        return {
            table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }


@pytest.fixture
def filled(registry: Registry) -> Registry:
    registry.facts = fill(registry)  # type: ignore[attr-defined]
    return registry


def on_sqlite(folder: Path) -> Home:
    return Home.at(folder, f"sqlite:///{folder}/registry.sqlite")


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_a_backup_of_either_database_restores_into_sqlite_row_for_row(
    filled: Registry, tmp_path: Path, name: str
) -> None:
    made = backup.make(filled, tmp_path / name)
    before = rows(filled)
    assert made.rows == {table: len(found) for table, found in before.items() if table not in SKIPPED}
    assert made.artifacts == 6
    assert all(before[table] for table in made.rows), "a table without a row shows nothing"
    target = on_sqlite(tmp_path / "other")
    found = restore.restore(target, tmp_path / name)
    assert (found.artifacts, found.requeued, found.failed, found.aside) == (6, 0, 0, None)
    again = target.registry()
    after = rows(again)
    extra = after["events"].pop()
    assert extra[2:5] == (restore.RESTORED, "registry", "cli")
    assert {table: found for table, found in after.items() if table not in SKIPPED} == {
        table: found for table, found in before.items() if table not in SKIPPED
    }
    assert after["retained"] == []
    facts = filled.facts  # type: ignore[attr-defined]
    assert again.fetch(facts["digest"]) == filled.fetch(facts["digest"])
    with again.writing() as session:
        assert keys.verifier(session).check(facts["secret"]) is not None
        assert events.record(session, "test", "after").id == extra[0] + 1
        assert datasets.load_rows(again.artifacts, datasets.get(session, "support"))
    again.close()
    assert oct((tmp_path / name).stat().st_mode & 0o077) == "0o0"
    left = [path.name for path in target.data_dir.iterdir() if path.name.startswith(".")]
    assert left == []


def test_a_backup_of_sqlite_restores_into_this_database(home: Home, tmp_path: Path) -> None:
    source = on_sqlite(tmp_path / "source").registry()
    fill(source)
    backup.make(source, tmp_path / "backup", texts=True)
    restore.restore(home, tmp_path / "backup")
    again = home.registry()
    before, after = rows(source), rows(again)
    with again.writing() as session:
        last = after["events"].pop()
        assert events.record(session, "test", "the sequence goes on").id == last[0] + 1
        assert keys.issue(session, "another", [Scope.READ])
    before.pop("workers"), after.pop("workers")
    assert after == before
    assert len(after["retained"]) == 1
    with pytest.raises(BackupRefused, match=r"not empty|holds a registry already"):
        restore.restore(home, tmp_path / "backup")
    again.close()
    source.close()


def test_what_is_needed_and_missing_is_named(filled: Registry, tmp_path: Path) -> None:
    lost = filled.store(WEIGHTS)
    filled.artifacts.path(lost).unlink()
    with pytest.raises(RegistryError, match=rf"backbone MiniLM cannot be backed up: no artifact {lost}"):
        backup.make(filled, tmp_path / "strict")
    manifest = filled.facts["digest"]  # type: ignore[attr-defined]
    path = filled.artifacts.path(manifest)
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    with pytest.raises(RegistryError, match=manifest):
        backup.make(filled, tmp_path / "strict")
    assert list(tmp_path.glob("strict*")) == []
    made = backup.make(filled, tmp_path / "kept.tar", damaged=True)
    assert made.missing == {lost: "backbone MiniLM", manifest: "version banking@2"}
    found = restore.restore(on_sqlite(tmp_path / "other"), tmp_path / "kept.tar")
    assert found.missing == made.missing


def test_writes_go_on_while_a_backup_is_made_and_it_holds_one_moment(filled: Registry, tmp_path: Path) -> None:
    """A writer adds datasets, each with its event in one transaction: a backup has as many of the one as of the other,
    those from before it, and the artifact of each."""
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            number = len(written)
            data = b"text,label\nrow %d,a\nother %d,b\n" % (number, number)
            with filled.writing() as session:
                datasets.add(session, filled.artifacts, "many", data, "csv")
            written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(2):
            floor = len(written) + 3
            while len(written) < floor:
                time.sleep(0.005)
            backup.make(filled, tmp_path / f"b{turn}")
            target = on_sqlite(tmp_path / f"home{turn}")
            restore.restore(target, tmp_path / f"b{turn}")
            again = target.registry()
            with again.reading() as session:
                found = [dataset for dataset in datasets.all(session) if dataset.name == "many"]
                told = events.page(session, kind="dataset.added", limit=100_000)
            assert {f"many@{dataset.revision}" for dataset in found} == {e.subject for e in told} - {"support@1"}
            assert len(found) >= floor
            assert all(datasets.load_rows(again.artifacts, dataset) for dataset in found)
            again.close()
    finally:
        stop.set()
        writer.join()


def test_an_older_schema_is_restored_as_it_was_and_migrated(home: Home, tmp_path: Path) -> None:
    at = "2026-01-02 03:04:05"
    source = on_sqlite(tmp_path / "source")
    source.data_dir.mkdir()
    database = Database(source.database_url)
    with database.connection() as connection:
        schema.upgrade(connection, "0001")
        with connection.begin():
            connection.exec_driver_sql(
                "INSERT INTO keys (id, name, digest, scopes, last4, created_at) VALUES "
                f"('abcdefgh', 'old', '{'0' * 64}', '[\"read\"]', 'wxyz', '{at}')"
            )
    backup.make(Registry(database, Artifacts(source.artifacts_dir)), tmp_path / "old")
    database.close()
    assert restore.restore(home, tmp_path / "old").schema == "0001"
    registry = home.registry()
    with registry.reading() as session:
        (key,) = keys.all(session)
        assert (key.name, key.created_at) == ("old", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        assert schema.current(session.connection()) == schema.head()
    registry.close()


def change(path: Path, **fields: Any) -> None:
    """Rewrite a backup's manifest with other fields, with a digest that is right."""
    told = json.loads((path / "manifest.json").read_bytes())["backup"]
    (path / "manifest.json").write_bytes(pack({**told, **fields}))


def test_a_newer_backup_and_a_newer_database_are_refused_naming_both(filled: Registry, tmp_path: Path) -> None:
    backup.make(filled, tmp_path / "b")
    change(tmp_path / "b", schema="9999")
    target = on_sqlite(tmp_path / "other")
    with pytest.raises(BackupRefused, match=rf"9999.*newer than schema {schema.head()}"):
        restore.restore(target, tmp_path / "b")
    assert not target.data_dir.exists()
    assert schema.head() in str(SchemaTooNew("9999", schema.head()))
    change(tmp_path / "b", format="driftline.backup/2")
    with pytest.raises(BackupRefused, match="format"):
        restore.restore(target, tmp_path / "b")


@pytest.mark.parametrize("what", ["rows", "artifact", "missing", "manifest", "truncated", "link", "foreign", "outside"])
def test_damage_is_found_before_anything_is_written(filled: Registry, tmp_path: Path, what: str) -> None:
    path = tmp_path / "b"
    backup.make(filled, path)
    artifact = next(each for each in (path / "artifacts").rglob("*") if each.is_file())
    if what == "rows":
        file = next((path / "tables").glob("*-versions-0.jsonl"))
        file.write_bytes(file.read_bytes().replace(b"banking", b"bankinG"))
    elif what == "artifact":
        artifact.write_bytes(b"x" * artifact.stat().st_size)
    elif what == "missing":
        artifact.unlink()
    elif what == "manifest":
        (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes().replace(b'"rows":2', b'"rows":3'))
    elif what == "link":
        artifact.rename(tmp_path / "elsewhere")
        artifact.symlink_to(tmp_path / "elsewhere")
    elif what == "outside":
        change(path, artifacts=[{"name": "../../etc/passwd", "sha256": "0" * 64, "size": 1}])
    elif what == "truncated":
        with tarfile.open(tmp_path / "b.tar", "w") as tar:
            tar.add(path, arcname="")
        whole = (tmp_path / "b.tar").read_bytes()
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path = tmp_path / "foreign.tar"
        path.write_bytes(b"no tar file")
    target = on_sqlite(tmp_path / "other")
    with pytest.raises(BackupRefused):
        restore.restore(target, path)
    assert not target.data_dir.exists()


def test_a_home_in_use_is_refused_and_replaced_only_when_told(filled: Registry, tmp_path: Path) -> None:
    backup.make(filled, tmp_path / "b")
    target = on_sqlite(tmp_path / "other")
    target.data_dir.mkdir()
    (target.data_dir / "notes.txt").write_text("mine")
    with pytest.raises(BackupRefused, match="not empty"):
        restore.restore(target, tmp_path / "b")
    assert [each.name for each in target.data_dir.iterdir()] == ["notes.txt"]
    old = target.registry()
    with old.writing() as session:
        events.record(session, "test", "of before")
    old.close()
    found = restore.restore(target, tmp_path / "b", replace=True)
    assert found.aside is not None
    again = target.registry()
    with again.reading() as session:
        assert events.page(session, kind="test") == []
        assert versions.get_adapter(session, "banking").live == 1
    again.close()
    aside = Home.at(found.aside, f"sqlite:///{found.aside}/registry.sqlite").registry()
    with aside.reading() as session:
        assert [event.subject for event in events.page(session, kind="test")] == ["of before"]
    aside.close()


def test_jobs_that_ran_are_queued_again_or_end_with_a_reason(filled: Registry, tmp_path: Path) -> None:
    with filled.writing() as session:
        first = jobs.get(session, filled.facts["job"])  # type: ignore[attr-defined]
        jobs.start(session, first.id)
        second = jobs.enqueue(session, adapter="banking", dataset="support", requested_by="ann")
        alone = jobs.enqueue(session, adapter="alone", dataset="support", requested_by="ann")
        jobs.start(session, alone.id)
        jobs.progress(session, alone.id, step="fit", fraction=0.5)
        ended = jobs.enqueue(session, adapter="ended", dataset="support", requested_by="ann")
        jobs.start(session, ended.id)
        jobs.request_cancel(session, ended.id)
    backup.make(filled, tmp_path / "b")
    target = on_sqlite(tmp_path / "other")
    found = restore.restore(target, tmp_path / "b")
    assert (found.requeued, found.failed) == (1, 2)
    again = target.registry()
    with again.reading() as session:
        assert jobs.get(session, second.id).state is JobState.QUEUED
        resumed = jobs.get(session, alone.id)
        assert (resumed.state, resumed.step, resumed.progress) == (JobState.QUEUED, None, 0.0)
        assert jobs.get(session, ended.id).state is JobState.CANCELLED
        lost = jobs.get(session, first.id)
        assert lost.state is JobState.FAILED
        assert "another job of its adapter waits" in (lost.error or "")
    again.close()


MOMENTS = {
    "artifacts": "Artifacts.put = die",
    "rows": "restore.insert = die",
    "migrated": "Database.scrub = die",
    "renamed": "pathlib.Path.rename = die",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_anywhere_a_restore_leaves_no_registry_and_can_be_begun_again(tmp_path: Path, moment: str) -> None:
    source = on_sqlite(tmp_path / "source").registry()
    fill(source)
    backup.make(source, tmp_path / "b")
    source.close()
    target = on_sqlite(tmp_path / "other")
    script = f"""
import os, pathlib, signal, sys
from registry import restore
from registry.artifacts import Artifacts
from registry.database import Database
from registry.home import Home
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{MOMENTS[moment]}
restore.restore(Home.at(sys.argv[1], sys.argv[2]), pathlib.Path(sys.argv[3]))
"""
    arguments = [str(target.data_dir), target.database_url, str(tmp_path / "b")]
    if moment == "renamed":
        # The first rename is that of an artifact: they are all there already, so that it is the registry's.
        shutil.copytree(tmp_path / "source" / "artifacts", target.artifacts_dir)
    died = subprocess.run([sys.executable, "-c", script, *arguments], timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert not (target.data_dir / "registry.sqlite").exists()
    restore.restore(target, tmp_path / "b")
    again = target.registry()
    with again.reading() as session:
        assert versions.get_adapter(session, "banking").live == 1
    again.close()
    assert sorted(each.name for each in target.data_dir.iterdir() if each.name != "registry.sqlite") == [
        "artifacts",
        "work",
    ]
