"""The commands as a user types them, on a home with the real backbone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from registry import jobs, versions
from registry.home import Home

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
    assert made["key"] not in listed
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
