"""Two workers with folders of their own, on PostgreSQL and an object store: who has the job when one is lost."""

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry import backbones, datasets, jobs, versions
from registry.home import Home
from registry.jobs import Job, JobState
from registry.registry import Registry
from training.errors import WorkerRefused
from training.worker import take_over_seconds

QUICK = {"steps": 24, "hidden": 16}
# Long enough to be interrupted in the middle of the fit.
LONG = {"steps": 100_000, "patience": 10_000, "hidden": 16}
TAKE_OVER_S = 4.0


@dataclass
class Pair:
    """Two homes of one installation, and its registry."""

    homes: tuple[Home, Home]
    registry: Registry

    def enqueue(self, recipe: dict[str, Any]) -> str:
        with self.registry.writing() as session:
            return jobs.enqueue(session, adapter="desk", dataset="small", recipe=recipe, requested_by="test").id

    def look(self, job_id: str) -> Job:
        with self.registry.reading() as session:
            return jobs.get(session, job_id)

    def until(self, job_id: str, reached: Callable[[Job], bool], within_s: float = 90.0) -> Job:
        deadline = time.monotonic() + within_s
        while not reached(job := self.look(job_id)):
            assert time.monotonic() < deadline, f"{job.state} {job.step} {job.progress} {job.error}"
            time.sleep(0.05)
        return job

    def told(self, job_id: str) -> list[tuple[str, int | None]]:
        """Every event of the job."""
        with self.registry.reading() as session:
            return [(event.kind, event.data.get("attempt")) for event in jobs.events(session, job_id)]


def logged(home: Home, event: str) -> bool:
    lines = (home.data_dir / "worker.log").read_text().splitlines()
    return any(json.loads(line)["event"] == event for line in lines if line.startswith("{"))


@pytest.fixture
def pair(
    exported_backbone: Path, tmp_path: Path, postgresql_server: str, kill_table: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pair]:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    # The object store's layout is the folder's: a copy of the artifacts is a bucket that holds them.
    bucket = tmp_path / "bucket"
    shutil.copytree(exported_backbone / "artifacts", bucket)
    monkeypatch.setenv("DRIFTLINE_ARTIFACTS_URL", bucket.as_uri())
    monkeypatch.setenv("DRIFTLINE_TAKE_OVER_SECONDS", str(TAKE_OVER_S))
    giver = Home.at(exported_backbone, f"sqlite:///{exported_backbone}/registry.sqlite", "").registry()
    with giver.reading() as session:
        backbone = backbones.default(session)
    assert backbone is not None
    giver.close()
    from tests.training.conftest import _databases

    with _databases._fresh_database(postgresql_server) as url:
        homes = (Home.at(tmp_path / "a", url), Home.at(tmp_path / "b", url))
        for home in homes:
            home.data_dir.mkdir()
        registry = homes[0].registry()
        manifest = json.loads(registry.fetch(backbone.digest))
        with registry.writing() as session:
            backbones.add(session, manifest, backbone.digest)
            datasets.add(session, registry.artifacts, "small", kill_table.small_csv(), "csv")
        yield Pair(homes, registry)
        registry.close()


def test_a_worker_that_was_frozen_while_another_took_its_job_up_leaves_no_trace(pair: Pair, kill_table: Any) -> None:
    job_id = pair.enqueue(QUICK)
    with kill_table.worker(pair.homes[0]) as frozen:
        pair.until(job_id, lambda job: job.step == "fit")
        frozen.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            with kill_table.worker(pair.homes[1]):
                pair.until(job_id, lambda job: job.attempts == 2, within_s=60)
                assert time.monotonic() - stopped >= TAKE_OVER_S * 0.8  # its last beat was a little before
                job = pair.until(job_id, lambda job: job.state.finished)
                before = pair.told(job_id)
        finally:
            frozen.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 60
        while not logged(pair.homes[0], "retrain.lost"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while list(pair.homes[0].work_dir.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert (job.state, job.error, job.attempts, job.version) == (JobState.SUCCEEDED, None, 2, 1)
    assert pair.look(job_id) == job
    assert pair.told(job_id) == before
    assert [each for each in before if each[0] != "progress"] == [
        ("queued", None), ("started", 1), ("started", 2), ("finished", None),
    ]  # fmt: skip
    with pair.registry.reading() as session:
        assert [version.job_id for version in versions.history(session, "desk")] == [job_id]


def test_a_worker_that_is_stopped_hands_its_job_to_the_other_at_once_and_may_have_it_back(
    pair: Pair, kill_table: Any
) -> None:
    job_id = pair.enqueue(LONG)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(kill_table.worker(pair.homes[0]))
        pair.until(job_id, lambda job: job.step == "fit")
        second = stack.enter_context(kill_table.worker(pair.homes[1]))
        while not (pair.homes[1].data_dir / "worker.log").read_text():
            time.sleep(0.05)
        first.terminate()
        assert first.wait(timeout=20) == 0
        stopped = time.monotonic()
        pair.until(job_id, lambda job: job.attempts == 2)
        assert time.monotonic() - stopped < TAKE_OVER_S
        pair.until(job_id, lambda job: job.step == "fit" and job.progress > 0.45)
        # Back to the first, whose engine has an earlier run of it: it goes on with that one's files.
        second.terminate()
        assert second.wait(timeout=20) == 0
        stack.enter_context(kill_table.worker(pair.homes[0]))
        job = pair.until(job_id, lambda job: job.attempts == 3)
        assert (job.deaths, job.pauses) == (0, 2)
        with pair.registry.writing() as session:
            jobs.request_cancel(session, job_id)
        assert pair.until(job_id, lambda job: job.state.finished).state is JobState.CANCELLED


def test_the_time_of_silence_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRIFTLINE_TAKE_OVER_SECONDS", raising=False)
    assert take_over_seconds() == 60.0
    monkeypatch.setenv("DRIFTLINE_TAKE_OVER_SECONDS", "7.5")
    assert take_over_seconds() == 7.5
    for wrong in ("soon", "1", "-5", "inf", "nan"):
        monkeypatch.setenv("DRIFTLINE_TAKE_OVER_SECONDS", wrong)
        with pytest.raises(WorkerRefused, match="at least 2"):
            take_over_seconds()
