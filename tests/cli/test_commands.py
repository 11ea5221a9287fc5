"""The commands as a user types them, on a home with the real backbone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.retrain import ForeignWorker
from registry import jobs, versions
from registry.home import Home
from registry.lock import FileLock

COMMAND = [sys.executable, "-m", "cli"]


def driftline(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments, "--data-dir", str(home.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    source = Path(__file__).resolve().parents[2] / "examples" / "support-desk" / "tickets.jsonl"
    file = tmp_path / "tickets.jsonl"
    file.write_bytes(source.read_bytes())
    return file


def test_a_dataset_is_added_listed_and_shown(backbone_home: Home, tickets: Path) -> None:
    added = driftline(backbone_home, "dataset", "add", "tickets", str(tickets))
    assert added.returncode == 0
    assert "revision 1: 960 labelled rows, 24 labels" in added.stdout
    listed = json.loads(driftline(backbone_home, "dataset", "list", "--json").stdout)
    assert [(d["name"], d["revision"], d["rows"]) for d in listed] == [("tickets", 1, 960)]
    shown = json.loads(driftline(backbone_home, "dataset", "show", "tickets", "--json").stdout)
    assert shown["report"]["label_count"] == 24


def test_a_bad_row_is_named_and_nothing_is_stored(backbone_home: Home, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "fine", "label": "a"}\n{"text": "SECRET", "lab\n')
    refused = driftline(backbone_home, "dataset", "add", "bad", str(file))
    assert refused.returncode == 1
    assert "row 2" in refused.stderr
    assert "SECRET" not in refused.stderr + refused.stdout
    assert json.loads(driftline(backbone_home, "dataset", "list", "--json").stdout) == []


def test_findings_are_shown_by_row_and_never_by_text(backbone_home: Home, tmp_path: Path) -> None:
    words = ("card", "parcel", "flight", "invoice", "garden", "window", "kettle")
    rows = [f'{{"text": "where is the secret {word}", "label": "a"}}' for word in words] * 2
    rows += ['{"text": "quite another matter", "label": "a"}', '{"text": "Quite another matter!", "label": "b"}']
    file = tmp_path / "twice.jsonl"
    file.write_text("\n".join(rows) + "\n")
    added = driftline(backbone_home, "dataset", "add", "twice", str(file))
    assert added.returncode == 0, added.stderr
    assert (
        "repeated word for word: rows 1, 8; rows 2, 9; rows 3, 10; rows 4, 11; rows 5, 12; and 2 more" in added.stdout
    )
    assert "the same text under two labels: rows 15, 16" in added.stdout
    assert "secret" not in added.stdout
    assert driftline(backbone_home, "dataset", "show", "twice").stdout == added.stdout


def test_an_unknown_ending_asks_for_the_format(backbone_home: Home, tmp_path: Path) -> None:
    file = tmp_path / "rows.dat"
    file.write_text("text,label\na,b\nc,d\n")
    refused = driftline(backbone_home, "dataset", "add", "rows", str(file))
    assert refused.returncode == 2
    assert "--format" in refused.stderr


def test_retrain_waits_for_the_verdict_and_the_version_can_be_moved(backbone_home: Home, tickets: Path) -> None:
    assert driftline(backbone_home, "dataset", "add", "tickets", str(tickets)).returncode == 0
    done = driftline(backbone_home, "retrain", "support", "--dataset", "tickets", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["state"] == "succeeded"
    assert job["verdict"]["outcome"] in ("pass", "fail", "inconclusive")
    assert all(reason["text"] for reason in job["verdict"]["reasons"])
    assert job["version"] == 1
    promoted = driftline(backbone_home, "adapter", "promote", "support@1", "--force")
    assert "support@1 is live" in promoted.stdout
    shown = json.loads(driftline(backbone_home, "adapter", "show", "support", "--json").stdout)
    assert shown["live"] == 1
    nothing_before = driftline(backbone_home, "adapter", "rollback", "support")
    assert nothing_before.returncode == 1
    assert "Traceback" not in nothing_before.stderr
    watched = driftline(backbone_home, "job", "watch", job["id"])
    assert watched.returncode == 0
    assert "verdict" in watched.stdout
    assert_what_cannot_be_served_goes_live_by_no_command(backbone_home)


def assert_what_cannot_be_served_goes_live_by_no_command(home: Home) -> None:
    """support@1 is live and whole; @2 has a broken head, @3 a broken reference."""
    registry = home.registry()
    garbage = registry.store(b"no artifact at all")
    with registry.writing() as session:
        whole = versions.get(session, "support", 1)
        for digest, reference in ((garbage, whole.reference), (whole.digest, garbage)):
            versions.publish(
                session,
                adapter="support",
                digest=digest,
                kind="head",
                backbone=whole.backbone,
                reference=reference,
                parent=1,
                job_id=None,
                dataset=whole.dataset,
                metrics={},
                verdict=None,
                rejected=False,
            )
    for number in (2, 3):
        refused = driftline(home, "adapter", "promote", f"support@{number}")
        assert refused.returncode == 1
        assert f"support@{number} cannot be served, so nothing was moved" in refused.stderr
        assert "Traceback" not in refused.stderr
    # Live once, its files went bad later: a rollback does not go back to it.
    with registry.writing() as session:
        versions.promote(session, "support", 3, by="test")
        versions.promote(session, "support", 1, by="test")
    refused = driftline(home, "adapter", "rollback", "support")
    assert refused.returncode == 1
    assert "support@3 cannot be served, so nothing was moved" in refused.stderr
    with registry.reading() as session:
        live = versions.live(session, "support")
    assert live is not None
    assert live.number == 1
    registry.close()


def test_wait_ends_when_its_worker_dies(backbone_home: Home, tickets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert driftline(backbone_home, "dataset", "add", "tickets", str(tickets)).returncode == 0
    monkeypatch.setenv("DRIFTLINE_CRASH_AT", "snapshot.before")
    gone = driftline(backbone_home, "retrain", "support", "--dataset", "tickets", "--wait")
    assert gone.returncode == 1
    assert "the worker ended with status -9 before the job was done" in gone.stderr
    assert str(backbone_home.data_dir / "worker.log") in gone.stderr


def test_who_waits_for_a_foreign_worker_is_told_once_that_it_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    home = Home.at(tmp_path)
    lock = FileLock(home.worker_lock)
    assert lock.acquire()
    foreign = ForeignWorker(home, lambda: now)
    said = []
    for second in range(200):
        now = float(second)
        if second == 50:
            lock.release()
        if second == 120:
            assert lock.acquire()
        if second == 130:
            lock.release()
        foreign.look()
        if capsys.readouterr().err.count("No worker has run for 30 s"):
            said.append(second)
    assert said == [80, 160]


def test_wait_exits_non_zero_when_the_job_fails(backbone_home: Home, tmp_path: Path) -> None:
    file = tmp_path / "tiny.csv"
    file.write_text("text,label\n" + "".join(f"message number {i},{'ab'[i % 2]}\n" for i in range(4)))
    assert driftline(backbone_home, "dataset", "add", "tiny", str(file)).returncode == 0
    failed = driftline(backbone_home, "retrain", "support", "--dataset", "tiny", "--wait")
    assert failed.returncode == 1
    assert "failed" in failed.stdout
    registry = backbone_home.registry()
    with registry.reading() as session:
        assert jobs.all(session)[0].error
        assert all(versions.live(session, adapter.name) is None for adapter in versions.all_adapters(session))
    registry.close()


def test_a_recipe_with_a_misspelt_field_is_refused_before_anything_is_queued(
    backbone_home: Home, tickets: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("temprature = 0.1\n")
    assert driftline(backbone_home, "dataset", "add", "tickets", str(tickets)).returncode == 0
    refused = driftline(backbone_home, "retrain", "support", "--dataset", "tickets", "--recipe", str(recipe))
    assert refused.returncode == 1
    assert "temprature" in refused.stderr
    assert json.loads(driftline(backbone_home, "job", "list", "--json").stdout) == []


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(backbone_home: Home) -> None:
    made = json.loads(driftline(backbone_home, "key", "create", "laptop", "--scope", "embed", "--json").stdout)
    listed = driftline(backbone_home, "key", "list", "--json").stdout
    assert made["secret"] not in listed
    assert json.loads(listed)[0]["scopes"] == ["embed"]
    assert driftline(backbone_home, "key", "revoke", made["id"]).returncode == 0
    assert json.loads(driftline(backbone_home, "key", "list", "--json").stdout)[0]["revoked_at"]
    assert driftline(backbone_home, "key", "create", "x", "--scope", "everything").returncode == 2


def test_beyond_loopback_serve_refuses_without_a_key(backbone_home: Home) -> None:
    refused = driftline(backbone_home, "serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 1
    assert "driftline key create" in refused.stderr


def test_a_wrong_setting_is_named(backbone_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CACHE_BYTES", "plenty")
    refused = driftline(backbone_home, "serve", "--port", "0")
    assert refused.returncode == 2
    assert "DRIFTLINE_CACHE_BYTES" in refused.stderr


def test_import_names_what_it_cannot_take(backbone_home: Home, tmp_path: Path) -> None:
    refused = driftline(backbone_home, "backbone", "import", str(tmp_path / "nothing"))
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert len(json.loads(driftline(backbone_home, "backbone", "list", "--json").stdout)) == 1
