"""`driftline doctor`: every check sees what is wrong and says what to do, changes nothing and shows no secret."""

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli import doctor_home, doctor_program, doctor_registry
from cli.main import app
from registry import backbones, datasets, jobs, keys, schema
from registry.database import Database
from registry.home import Home
from registry.lock import FileLock

ROWS = b"text,label\n" + b"".join(b"row %d,%d\n" % (n, n % 2) for n in range(8))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting from outside, room on the disk, and the quickest exact runtime."""
    monkeypatch.setattr(doctor_home.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**11))
    for name in list(os.environ):
        if name.startswith("DRIFTLINE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DRIFTLINE_PROVIDER", "cpu")
    monkeypatch.setenv("DRIFTLINE_PRECISION", "fp32")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a schema and nothing else."""
    home = Home.at(tmp_path / "home")
    home.registry().close()
    return home


def run(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", "--data-dir", str(home.data_dir), *arguments])


def look(home: Home, *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit status, and the checks by name."""
    result = run(home, "--json", *arguments or ("--no-model",))
    found: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(result.stdout)["checks"]:
        assert set(check) == {"name", "state", "seen", "next"}
        found.setdefault(check["name"], []).append(check)
    problems = [check for checks in found.values() for check in checks if check["state"] == "problem"]
    assert result.exit_code == bool(problems)
    return result.exit_code, found


def states(found: dict[str, list[dict[str, Any]]], name: str) -> list[str]:
    return [check["state"] for check in found[name]]


def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "none")
    code, found = look(home)
    assert code == 0
    assert "does not exist yet" in found["data folder"][0]["seen"]
    assert "does not exist yet" in found["database"][0]["seen"]
    assert found["model"][0]["next"] == "driftline backbone import"
    assert not home.data_dir.exists()


def test_a_whole_home_is_ok_in_depth_and_its_model_is_run(backbone_home: Home) -> None:
    registry = backbone_home.registry()
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "rows", ROWS, "csv")
    registry.close()
    backbone_home.data_dir.chmod(0o700)
    code, found = look(backbone_home, "--deep")
    wrong = [check for checks in found.values() for check in checks if check["state"] != "ok"]
    assert (code, wrong) == (0, [])
    assert "on cpu fp32, smallest cosine to its probes 1.0" in found["model"][0]["seen"]
    assert "quick_check ok" in found["database"][0]["seen"]
    assert "all there with the right digests" in found["artifacts"][0]["seen"]
    left = [path.name for path in backbone_home.data_dir.rglob(".doctor*")]
    assert left == []
    shown = run(backbone_home, "--no-model")
    assert "0 problems, 0 warnings" in shown.stdout


def test_a_database_that_is_away_is_said_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    monkeypatch.setenv("DRIFTLINE_DATABASE_URL", "postgresql://me:HUSH1@127.0.0.1:1/registry?password=HUSH2")
    monkeypatch.setenv("DRIFTLINE_CACHE_URL", "redis://me:HUSH3@127.0.0.1:1")
    monkeypatch.setenv("DRIFTLINE_CACHE_SALT", "HUSH4-and-some-more")
    home = Home.at(tmp_path / "home")
    code, found = look(home)
    assert code == 1
    assert states(found, "database") == ["problem"]
    assert "postgresql 127.0.0.1:1/registry" in found["database"][0]["seen"]
    assert states(found, "object store") == ["warning"]
    assert states(found, "shared cache") == ["warning"]
    assert "cannot be read" in found["model"][0]["seen"]
    for shown in (run(home, "--no-model").output, run(home, "--no-model", "--json").output):
        assert "HUSH" not in shown
    for broken in ("postgresql://me:HUSH5@[/x", "mysql://me:HUSH6@host/x", "sqlite://"):
        monkeypatch.setenv("DRIFTLINE_DATABASE_URL", broken)
        result = run(home, "--no-model")
        assert result.exit_code == 1
        assert "HUSH" not in result.output
        assert "Traceback" not in result.output


def test_settings_that_are_misspelt_wrong_or_at_odds_are_named_and_not_shown(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(look(home)[1], "settings") == ["ok"]
    monkeypatch.setenv("DRIFTLINE_CACHE_BITES", "HUSH")
    monkeypatch.setenv("DRIFTLINE_XYZZY", "HUSH")
    monkeypatch.setenv("DRIFTLINE_CRASH_AT", "publish.after")
    monkeypatch.setenv("DRIFTLINE_MODELS", "/models")
    code, found = look(home)
    assert code == 0
    seen = {check["seen"]: check["next"] for check in found["settings"]}
    assert seen["DRIFTLINE_CACHE_BITES is set, and nothing reads it"] == "perhaps DRIFTLINE_CACHE_BYTES is meant"
    assert "take it away" in seen["DRIFTLINE_XYZZY is set, and nothing reads it"]
    assert len(seen) == 3
    monkeypatch.setenv("DRIFTLINE_PORT", "HUSH")
    code, found = look(home)
    assert code == 1
    assert any(check["seen"].startswith("DRIFTLINE_PORT: ") for check in found["settings"])
    assert "HUSH" not in json.dumps(found)
    monkeypatch.delenv("DRIFTLINE_PORT")
    for name, value, said in (
        ("DRIFTLINE_THREADS", "100000", "cores"),
        ("DRIFTLINE_QUEUE_TOKENS", "5", "the queue holds 5"),
        ("DRIFTLINE_CACHE_SALT", "0123456789abcdef", "without DRIFTLINE_CACHE_URL"),
        ("DRIFTLINE_DRAIN_SECONDS", "60", "no shorter than"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            _, found = look(home)
            assert any(said in check["seen"] for check in found["settings"]), name
    monkeypatch.setenv("DRIFTLINE_DRIFT_POLICY", "retrain")
    monkeypatch.setenv("DRIFTLINE_RETRAIN_BUDGET", "0")
    assert any("never start one" in check["seen"] for check in look(home)[1]["settings"])


def test_libraries_are_held_against_the_package_s_own_bounds(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(look(home)[1], "libraries") == ["ok"]
    wanted = ["numpy>=999", "no-such-library>=1", 'typer>=999; extra == "dev"', 'absent>=1; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    code, found = look(home)
    assert code == 1
    seen = [check["seen"] for check in found["libraries"]]
    assert seen[0] == "missing: no-such-library"
    assert "numpy" in seen[1]
    assert "typer" in seen[1]
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.40" if "onnxruntime" in name else version(name))
    assert any("both installed" in check["seen"] for check in look(home)[1]["libraries"])
    monkeypatch.setattr(doctor_program.platform, "python_version", lambda: "3.10.1")
    assert states(look(home)[1], "python") == ["problem"]


def test_an_older_schema_waits_for_the_next_start_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    home.data_dir.mkdir(mode=0o700)
    database = Database(home.database_url)
    with database.connection() as connection:
        schema.upgrade(connection, "0002")
    code, found = look(home)
    assert (code, states(found, "schema")) == (0, ["warning"])
    assert "revision 0002; 0003, 0004" in found["schema"][0]["seen"]
    with database.connection() as connection, connection.begin():
        assert schema.current(connection) == "0002"  # nothing was migrated
    home.registry().close()
    assert states(look(home)[1], "schema") == ["ok"]
    with database.connection() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    code, found = look(home)
    assert (code, states(found, "schema")) == (1, ["problem"])
    assert "9999" in found["schema"][0]["seen"]
    assert schema.head() in found["schema"][0]["seen"]
    database.close()


def test_artifacts_that_are_missing_or_damaged_are_named_with_what_needs_them(home: Home) -> None:
    registry = home.registry()
    model = registry.store(b"the model")
    manifest = {"name": "M", "dimension": 3, "max_tokens": 4, "source": "t"}
    manifest["files"] = {"model.onnx": {"sha256": model, "size": 9}}
    digest = registry.store(json.dumps(manifest).encode())
    with registry.writing() as session:
        backbones.add(session, manifest, digest)
    assert states(look(home)[1], "artifacts") == ["ok"]
    path = registry.artifacts.path(model)
    path.chmod(0o600)
    path.write_bytes(b"another!!")
    assert states(look(home)[1], "artifacts") == ["ok"]  # it is there; its bytes are read in depth
    code, found = look(home, "--no-model", "--deep")
    assert (code, states(found, "artifacts")) == (1, ["problem"])
    assert f"backbone M: artifact {model}" in found["artifacts"][0]["seen"]
    path.unlink()
    code, found = look(home)
    assert (code, states(found, "artifacts")) == (1, ["problem"])
    assert model in found["artifacts"][0]["seen"]
    registry.close()
    shutil.rmtree(home.artifacts_dir)
    assert states(look(home)[1], "artifacts") == ["problem"]


def test_a_damaged_database_file_is_a_problem(home: Home) -> None:
    (home.data_dir / "registry.sqlite").write_bytes(b"this is no database" * 400)
    code, found = look(home)
    assert code == 1
    assert states(found, "database") == ["problem"]


def test_the_folder_the_disk_and_the_clock(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.data_dir.chmod(0o755)
    _, found = look(home)
    assert states(found, "data folder") == ["warning"]
    assert found["data folder"][0]["next"] == f"chmod 700 {home.data_dir}"
    usage: Callable[[int], Any] = lambda free: lambda _: SimpleNamespace(free=free)  # noqa: E731
    monkeypatch.setattr(doctor_home.shutil, "disk_usage", usage(10**9))
    assert states(look(home)[1], "disk") == ["warning"]
    monkeypatch.setattr(doctor_home.shutil, "disk_usage", usage(10**6))
    assert states(look(home)[1], "disk") == ["problem"]
    monkeypatch.setattr(doctor_home, "_stamp", lambda path: 1.0)
    assert states(look(home)[1], "clock") == ["warning"]
    monkeypatch.setattr(doctor_home, "_stamp", lambda path: None)
    assert states(look(home)[1], "data folder") == ["problem"]
    file = home.data_dir / "a file"
    file.touch()
    assert states(look(Home.at(file))[1], "data folder") == ["problem"]


def test_keys_are_counted_and_without_one_only_loopback_will_do(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(look(home)[1], "keys") == ["ok"]
    monkeypatch.setenv("DRIFTLINE_HOST", "0.0.0.0")
    code, found = look(home)
    assert (code, states(found, "keys")) == (1, ["problem"])
    assert "--scope admin" in found["keys"][0]["next"]
    registry = home.registry()
    with registry.writing() as session:
        keys.issue(session, "app", [keys.Scope.EMBED])
    code, found = look(home)
    assert (code, states(found, "keys")) == (0, ["warning"])
    with registry.writing() as session:
        keys.issue(session, "root", [keys.Scope.ADMIN])
    registry.close()
    assert states(look(home)[1], "keys") == ["ok"]


def test_open_jobs_without_a_worker_and_silent_ones_are_seen(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (states(look(home)[1], "worker"), states(look(home)[1], "jobs")) == (["ok"], ["ok"])
    registry = home.registry()
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "rows", ROWS, "csv")
        job = jobs.enqueue(session, adapter="a", dataset="rows", requested_by="ann")
    code, found = look(home)
    assert (code, states(found, "worker")) == (1, ["problem"])
    lock = FileLock(home.worker_lock)
    assert lock.acquire()
    assert states(look(home)[1], "worker") == ["ok"]
    assert states(look(home)[1], "jobs") == ["ok"]
    monkeypatch.setattr(doctor_registry, "WAITS_SECONDS", 0.0)
    monkeypatch.setattr(doctor_registry, "SILENT_SECONDS", 0.0)
    _, found = look(home)
    assert states(found, "jobs") == ["warning"]
    assert f"{job.id} waiting" in found["jobs"][0]["seen"]
    with registry.writing() as session:
        jobs.start(session, job.id)
        jobs.progress(session, job.id, step="fit", fraction=0.5)
    assert f"{job.id} in step fit" in look(home)[1]["jobs"][0]["seen"]
    lock.release()
    registry.close()


def test_the_object_store_is_tried(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    assert "none is configured" in look(home)[1]["object store"][0]["seen"]
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("DRIFTLINE_ARTIFACTS_URL", f"file://{tmp_path}/bucket")
    assert states(look(home)[1], "object store") == ["ok"]
    assert [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()] == []
    monkeypatch.setenv("DRIFTLINE_ARTIFACTS_URL", "ftp://me:HUSH@bucket")
    code, found = look(home)
    assert (code, states(found, "object store")) == (1, ["problem"])
    assert "HUSH" not in json.dumps(found)


def test_a_check_that_fails_by_itself_stops_no_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Any:
        raise KeyError("HUSH")

    monkeypatch.setattr(doctor_home, "disk", fail)
    code, found = look(home)
    assert code == 1
    assert found["disk"][0]["seen"] == "could not be looked at (KeyError)"
    assert "schema" in found
