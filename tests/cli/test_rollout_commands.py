"""`driftline rollout` as a user types it, on a registry without a service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from registry import backbones, rollouts, versions
from registry.home import Home
from registry.registry import Registry

BACKBONE = "b" * 64


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


@pytest.fixture
def registry(home: Home) -> Iterator[Registry]:
    """An adapter whose version 1 is live, 2 has passed the gate and 3 was rejected."""
    registry = home.registry()
    with registry.writing() as session:
        backbones.add(session, {"name": "MiniLM", "dimension": 384, "max_tokens": 256, "source": "test"}, BACKBONE)
        versions.ensure_adapter(session, "banking", BACKBONE)
        for outcome in ("pass", "pass", "fail"):
            versions.publish(
                session, adapter="banking", digest="d" * 64, kind="head", backbone=BACKBONE, reference=None,
                parent=None, job_id=None, dataset="support@1", metrics={}, verdict={"outcome": outcome},
                rejected=outcome == "fail",
            )  # fmt: skip
        versions.promote(session, "banking", 1, by="test")
    yield registry
    registry.close()


def driftline(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["rollout", *arguments, "--data-dir", str(home.data_dir)])


def test_a_rollout_is_started_seen_and_stopped(home: Home, registry: Registry) -> None:
    given = ("--mode", "canary", "--share", "0.2", "--rule", "unit=header", "--rule", "max_error_rate=0.05")
    started = driftline(home, "start", "banking@2", *given, "--hold", "--min-observations", "40", "--json")
    assert started.exit_code == 0, started.output
    found = json.loads(started.stdout)
    assert (found["version"], found["champion"], found["state"]) == ("banking@2", "banking@1", "running")
    assert (found["share"], found["rules"]["unit"], found["rules"]["max_error_rate"]) == (0.2, "header", 0.05)
    shown = driftline(home, "status", "banking").stdout
    assert "banking@2 beside banking@1: canary, 20% of callers, running, 0 requests compared" in shown
    assert "missing: 40 more compared requests" in shown
    assert "will not be promoted by itself: the rules leave the promotion to a person" in shown
    with registry.writing() as session:
        tally = {"observations": 5, "rows_n": 5, "rows": 1_000_000, "attempts": 5}
        rollouts.put_counts(session, found["id"], "one", tally)
    assert "rows" in driftline(home, "status", "banking").stdout
    stopped = driftline(home, "stop", "banking", "--reason", "not today")
    assert "stopped, 5 requests compared" in stopped.stdout
    assert "not today" in stopped.stdout
    assert json.loads(driftline(home, "status", "banking", "--json").stdout)["finished_by"] == "cli"
    again = driftline(home, "stop", "banking")
    assert (again.exit_code, "no active rollout" in again.output) == (1, True)


def test_what_is_wrong_is_said_and_nothing_begins(home: Home, registry: Registry) -> None:
    for arguments, code, said in (
        (("start", "banking"), 2, "which version?"),
        (("start", "banking@9"), 1, "there is no version banking@9"),
        (("start", "banking@3"), 1, "rejected by the gate"),
        (("start", "banking@2", "--share", "0.2"), 1, 'share goes with the mode "canary"'),
        (("start", "banking@2", "--rule", "hope"), 2, "NAME=VALUE"),
        (("start", "banking@2", "--rule", "hope=1"), 1, "unknown field hope"),
        (("status", "banking"), 1, "there is no rollout of banking"),
        (("status", "none"), 1, "there is no adapter none"),
    ):
        done = driftline(home, *arguments)
        assert done.exit_code == code, (arguments, done.output)
        assert said in " ".join(done.output.split()), arguments
    with registry.reading() as session:
        assert rollouts.all_active(session) == []
