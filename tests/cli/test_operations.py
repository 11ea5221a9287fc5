"""`driftline backup`, `restore`, `gc` and `audit` as a user types them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from registry import datasets, events, keys
from registry.home import Home

ROWS = b"text,label\n" + b"".join(b"row %d,%d\n" % (n, n % 2) for n in range(8))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a dataset, a key, and an artifact that nothing names."""
    home = Home.at(tmp_path / "home")
    registry = home.registry()
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "rows", ROWS, "csv", by="ann")
        keys.issue(session, "app", [keys.Scope.READ], by="bob")
    left = registry.store(b"left behind")
    os.utime(registry.artifacts.path(left), (1, 1))
    registry.close()
    return home


def driftline(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data-dir", str(home.data_dir)])


def test_a_home_goes_through_a_backup_and_comes_back(home: Home, tmp_path: Path) -> None:
    made = driftline(home, "backup", str(tmp_path / "b.tar"), "--json")
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    assert (told["artifacts"], told["rows"]["keys"], told["missing"]) == (1, 1, {})
    again = driftline(home, "backup", str(tmp_path / "b.tar"))
    assert (again.exit_code, "never overwritten" in again.output) == (1, True)
    other = Home.at(tmp_path / "other")
    restored = driftline(other, "restore", str(tmp_path / "b.tar"), "--json")
    assert restored.exit_code == 0, restored.output
    assert json.loads(restored.stdout)["artifacts"] == 1
    assert "app" in driftline(other, "key", "list").stdout
    refused = driftline(other, "restore", str(tmp_path / "b.tar"))
    assert (refused.exit_code, "--replace" in refused.output) == (1, True)
    replaced = driftline(other, "restore", str(tmp_path / "b.tar"), "--replace")
    assert replaced.exit_code == 0, replaced.output
    assert "before-restore-" in replaced.output
    registry = home.registry()
    with registry.reading() as session:
        lost = datasets.get(session, "rows").digest
    registry.artifacts.path(lost).unlink()
    registry.close()
    damaged = driftline(home, "backup", str(tmp_path / "c"))
    assert (damaged.exit_code, "dataset rows@1 cannot be backed up" in damaged.output) == (1, True)
    kept = driftline(home, "backup", str(tmp_path / "c"), "--keep-going")
    assert (kept.exit_code, lost in kept.output) == (1, True)
    assert (tmp_path / "c" / "manifest.json").exists()


def test_garbage_is_listed_and_deleted_only_when_told(home: Home) -> None:
    listed = json.loads(driftline(home, "gc", "--json").stdout)
    assert (listed["named"], len(listed["garbage"]), listed["deleted"]) == (1, 1, 0)
    assert "Nothing was deleted; --apply deletes them" in driftline(home, "gc").stdout
    assert "1 were deleted" in driftline(home, "gc", "--apply", "--older-than", "1h").stdout
    assert json.loads(driftline(home, "gc", "--json").stdout)["garbage"] == []
    for wrong in ("59m", "0h", "soon", "-1d"):
        assert driftline(home, "gc", "--older-than", wrong).exit_code == 2, wrong


def test_the_journal_names_who_did_what(home: Home) -> None:
    assert driftline(home, "key", "create", "ops", "--scope", "admin").exit_code == 0
    found = json.loads(driftline(home, "audit", "--json").stdout)
    assert [(e["kind"], e["actor"]) for e in found] == [
        ("dataset.added", "ann"), ("key.issued", "bob"), ("key.issued", "cli"),
    ]  # fmt: skip
    assert "key.issued" in driftline(home, "audit", "--kind", "key", "--actor", "bob").stdout
    assert "dataset.added" not in driftline(home, "audit", "--kind", "key").stdout
    one = json.loads(driftline(home, "audit", "--limit", "1", "--before", str(found[-1]["id"]), "--json").stdout)
    assert [e["id"] for e in one] == [found[1]["id"]]
    assert json.loads(driftline(home, "audit", "--days", "0", "--json").stdout) == []
    assert driftline(home, "audit", "--follow", "--before", "3").exit_code == 2


def test_what_is_done_on_the_command_line_is_journalled_as_such(home: Home, tmp_path: Path) -> None:
    rows = tmp_path / "more.csv"
    rows.write_bytes(ROWS + b"another,1\n")
    made = driftline(home, "key", "create", "ops", "--scope", "embed", "--json")
    key = json.loads(made.stdout)
    for arguments in (
        ("dataset", "add", "more", str(rows)),
        ("key", "limit", key["id"], "--texts-per-day", "5"),
        ("key", "retain", key["id"], "--days", "2"),
        ("key", "retain", key["id"], "--days", "0"),
        ("key", "revoke", key["id"]),
        ("gc", "--apply"),
    ):
        done = driftline(home, *arguments)
        assert done.exit_code == 0, done.output
    shown = driftline(home, "audit", "--actor", "cli", "--json").stdout
    assert [event["kind"] for event in json.loads(shown)] == [
        "key.issued", "dataset.added", "key.limited", "key.retention", "key.retention", "texts.purged", "key.revoked",
        "artifacts.collected",
    ]  # fmt: skip
    assert key["secret"] not in shown
    assert "another" not in shown


def test_a_worker_without_work_stops_at_once_and_leaves_with_0(home: Home) -> None:
    command = [sys.executable, "-m", "cli", "worker", "--data-dir", str(home.data_dir)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        assert json.loads(worker.stderr.readline())["event"] == "worker.started"
        worker.terminate()
        said = [json.loads(line) for line in worker.stderr.read().splitlines()]
        assert worker.wait(timeout=20) == 0
    assert said[-1]["event"] == "worker.stopped"


def test_the_journal_is_followed_as_it_grows(home: Home) -> None:
    command = [sys.executable, "-m", "cli", "audit", "--follow", "--json", "--data-dir", str(home.data_dir)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as it:
        assert it.stdout is not None
        seen = [json.loads(it.stdout.readline())["kind"] for _ in range(2)]
        registry = home.registry()
        with registry.writing() as session:
            events.record(session, "test.happened", "now", "ann", {"ünï": 1})
        registry.close()
        begun = time.monotonic()
        last = json.loads(it.stdout.readline())
        it.terminate()
    assert seen == ["dataset.added", "key.issued"]
    assert (last["kind"], last["actor"], last["detail"]) == ("test.happened", "ann", {"ünï": 1})
    assert time.monotonic() - begun < 30
