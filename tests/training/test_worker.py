"""The worker as a program, on the real backbone: whole jobs, cancel, stop, a second worker, and refusals."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.adapters import Head
from encoder.encoder import Encoder
from monitoring.reference import Reference
from registry import backbones, datasets, jobs, versions
from registry.home import Home
from registry.jobs import Job, JobState
from registry.registry import Registry
from registry.versions import VersionState
from training.generic import generic_texts

QUICK: dict[str, Any] = {"steps": 24, "hidden": 64}
# A head that changes texts it was not fitted on as well.
MOVED = {"alpha": 1.0, "replay": 0.0}
# Long enough to be interrupted in the middle of the fit.
ENDLESS = {"steps": 100_000, "patience": 10_000, "hidden": 64}


@contextlib.contextmanager
def running(home: Home, *options: str, stdin: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"DRIFTLINE_PROVIDER": "cpu", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "training", "worker", "--data-dir", str(home.data_dir), *options]
    with subprocess.Popen(command, env=environment, stdin=stdin, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture
def registry(small_home: Home) -> Iterator[Registry]:
    opened = small_home.registry()
    yield opened
    opened.close()


def enqueue(registry: Registry, adapter: str, recipe: dict[str, Any], dataset: str = "small") -> str:
    with registry.writing() as session:
        return jobs.enqueue(session, adapter=adapter, dataset=dataset, recipe=recipe, requested_by="test").id


def look(registry: Registry, job_id: str) -> Job:
    with registry.reading() as session:
        return jobs.get(session, job_id)


def wait_until(registry: Registry, job_id: str, reached: Callable[[Job], bool], within_s: float = 90.0) -> Job:
    deadline = time.monotonic() + within_s
    while not reached(job := look(registry, job_id)):
        assert time.monotonic() < deadline, f"{job.state} {job.step} {job.progress} {job.error}"
        time.sleep(0.05)
    return job


def finished(job: Job) -> bool:
    return job.state.finished


def fits(home: Home) -> list[Path]:
    """Processes that fit in this home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            if b"training.fit_child" in line and str(home.data_dir).encode() in line:
                found.append(entry)
    return found


def assert_no_folder_is_left(home: Home) -> None:
    """A folder goes just after its job has ended."""
    deadline = time.monotonic() + 10
    while left := list(home.work_dir.iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_job_publishes_a_version_that_is_better_whole_and_live(small_home: Home, registry: Registry) -> None:
    with running(small_home):
        first = wait_until(registry, enqueue(registry, "desk", QUICK), finished)
        second = wait_until(registry, enqueue(registry, "desk", {**QUICK, "promote": False}), finished)
        others = {
            "failing": {**QUICK, **MOVED, "gate": {"geometry": {"min_overlap": 1.0}}},
            "unsure": {**QUICK, "gate": {"min_items": 1000}},
        }
        ended = {name: wait_until(registry, enqueue(registry, name, r), finished) for name, r in others.items()}
        assert_no_folder_is_left(small_home)
    assert {name: job.error for name, job in ended.items()} == dict.fromkeys(others)
    with registry.reading() as session:
        history = versions.history(session, "desk")
        states = {name: versions.history(session, name)[0].state for name in others}
        told = jobs.events(session, first.id)
        backbone = backbones.default(session)

    assert first.state is JobState.SUCCEEDED
    assert first.error is None
    assert first.verdict is not None
    assert first.verdict["outcome"] == "pass"
    assert first.metrics["promotion"]["promoted"]
    assert [e.kind for e in told][:2] == ["queued", "started"]
    assert [e.kind for e in told][-1] == "finished"
    steps = list(dict.fromkeys(e.data["step"] for e in told if e.kind == "progress"))
    assert steps == ["snapshot", "encode", "fit", "export", "check", "evaluate", "gate", "report", "reference", "store"]
    fractions = [e.data["fraction"] for e in told if e.kind == "progress"]
    assert fractions == sorted(fractions)
    assert [(v.number, v.state, v.parent, v.dataset) for v in reversed(history)] == [
        (1, VersionState.LIVE, None, "small@1"),
        (2, VersionState.CANDIDATE, 1, "small@1"),
    ]
    assert second.verdict is not None
    assert "champion" in second.verdict["metrics"]["means"]
    assert {name: job.state for name, job in ended.items()} == dict.fromkeys(others, JobState.SUCCEEDED)
    assert states == {"failing": VersionState.REJECTED, "unsure": VersionState.CANDIDATE}

    assert backbone is not None
    version = history[-1]
    head = Head.open(version.digest, registry.fetch)
    encoder = Encoder.open(backbone.digest, registry.fetch, provider="cpu")
    base = encoder.encode(generic_texts()[:20]).vectors
    assert np.abs(head.apply(base) - base).max() > 1e-3
    # Nothing of a job is kept as a pickle.
    with contextlib.closing(sqlite3.connect(small_home.data_dir / "jobs.sqlite")) as engine:
        kept = engine.execute("SELECT DISTINCT serialization FROM workflow_status").fetchall()
        kept += engine.execute("SELECT DISTINCT serialization FROM operation_outputs").fetchall()
    assert set(kept) == {("portable_json",)}

    assert version.reference is not None
    reference = Reference.from_bytes(registry.fetch(version.reference))
    assert len(reference.fit) == first.metrics["rows"]["fit"]
    assert set(reference.fit_labels or ()) == {"card", "parcel", "flight", "invoice"}


def test_cancel_ends_a_fit_within_two_seconds_and_a_waiting_job_at_once(small_home: Home, registry: Registry) -> None:
    with running(small_home):
        job_id = enqueue(registry, "desk", ENDLESS)
        wait_until(registry, job_id, lambda job: job.step == "fit" and job.progress > 0.45)
        waiting = enqueue(registry, "desk", QUICK)
        asked = time.monotonic()
        for each in (job_id, waiting):
            with registry.writing() as session:
                jobs.request_cancel(session, each, by="test")
        job = wait_until(registry, job_id, finished, within_s=10)
        took = time.monotonic() - asked
        assert job.state is JobState.CANCELLED
        assert job.error is None
        assert took < 4.0  # 2 s on a machine that does nothing else
        assert not fits(small_home)
        assert look(registry, waiting).state is JobState.CANCELLED
        # The worker goes on with the next job.
        after = wait_until(registry, enqueue(registry, "desk", QUICK), finished)
        assert after.state is JobState.SUCCEEDED
    with registry.reading() as session:
        assert [version.number for version in versions.history(session, "desk")] == [1]


def test_a_stopped_worker_leaves_its_job_to_the_next_start(small_home: Home, registry: Registry) -> None:
    job_id = enqueue(registry, "desk", ENDLESS)
    with running(small_home) as process:
        wait_until(registry, job_id, lambda job: job.step == "fit" and job.progress > 0.45)
        process.terminate()
        assert process.wait(timeout=10) == 0
    assert look(registry, job_id).state is JobState.RUNNING
    assert not fits(small_home)
    with running(small_home):
        job = wait_until(registry, job_id, lambda job: job.attempts == 2 and job.progress > 0.45)
        assert job.step == "fit"
        # A stop is no death: however often it happens, the job is not given up for it.
        assert job.deaths == 0
        with registry.writing() as session:
            jobs.request_cancel(session, job_id)
        assert wait_until(registry, job_id, finished, within_s=10).state is JobState.CANCELLED


def test_the_leash_stops_the_worker_and_a_second_worker_is_refused(small_home: Home, registry: Registry) -> None:
    with running(small_home, "--leash", stdin=subprocess.PIPE) as first:
        assert first.stderr is not None
        assert json.loads(first.stderr.readline())["event"] == "worker.started"
        with running(small_home) as second:
            assert second.wait(timeout=60) == 2
            assert second.stderr is not None
            said = second.stderr.read().decode()
        assert "another worker already runs" in said
        assert "Traceback" not in said
        assert first.poll() is None
        assert first.stdin is not None
        first.stdin.close()
        assert first.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("rows", "recipe", "said"),
    [
        (b"text\nhello there\nanother line\n", {}, "too small"),
        (b"text,label\nfirst words,a\nother things,b\nthird line,a\n", {}, "too small"),
        (None, {"stepps": 3}, "unknown field stepps"),
    ],
)
def test_a_job_that_cannot_run_fails_with_what_to_do_and_no_text_of_a_row(
    small_home: Home, registry: Registry, rows: bytes | None, recipe: dict[str, Any], said: str
) -> None:
    if rows is not None:
        with registry.writing() as session:
            datasets.add(session, registry.artifacts, "other", rows, "csv")
    with running(small_home) as process:
        job_id = enqueue(registry, "desk", recipe, "small" if rows is None else "other")
        job = wait_until(registry, job_id, finished)
        assert_no_folder_is_left(small_home)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
        assert process.stderr is not None
        logged = process.stderr.read().decode()
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert said in job.error
    for text in ("hello there", "first words"):
        assert text not in job.error + logged
    with registry.reading() as session:
        assert all(not versions.history(session, a.name) for a in versions.all_adapters(session))
