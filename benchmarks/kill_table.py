"""Kill a real worker with SIGKILL at every step of a retrain and see what the next start makes of it.

`python benchmarks/kill_table.py [--home DIR]` prints one row for each kill point: where the worker died, what the next
start did again, how it ended. DIR is a home with a backbone (it is copied, never changed); without it the default
backbone is imported into a temporary one. Exit code 1 when anything is not as promised.
"""

import argparse
import contextlib
import csv
import io
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from encoder.adapters import Head
from monitoring.reference import Reference
from registry import backbones, datasets, jobs, versions
from registry.home import Home
from registry.jobs import JobState
from registry.registry import Registry
from training.crash import VARIABLE
from training.retrain import NAMES

POINTS = tuple(
    point for name in NAMES for point in (f"{name}.before", *(["fit.during"] if name == "fit" else []), f"{name}.after")
)
DATASET = "kill-table"
# Small on purpose: what is tried here is dying, not learning.
RECIPE = {"steps": 24, "hidden": 64, "seed": 1}
_SUBJECTS = {
    "card": ("my card", "the bank card", "a debit card", "the credit card", "her new card", "our company card"),
    "parcel": ("my parcel", "the package", "a delivery", "the shipment", "her order", "our box of books"),
    "flight": ("my flight", "the plane", "a connection", "the trip", "her journey", "our holiday flight"),
    "invoice": ("my invoice", "the bill", "a receipt", "the payment slip", "her statement", "our yearly account"),
}
_PHRASES = (
    "where is {} now",
    "{} has not arrived yet",
    "please cancel {} today",
    "I cannot find {} anywhere",
    "who can help me with {}",
    "why was {} so expensive",
    "{} is damaged, what now",
    "can I change {} online",
    "I was told that {} is lost",
    "how long does {} take",
)


@dataclass(frozen=True)
class Outcome:
    """One job that was killed at one or several points."""

    points: tuple[str, ...]
    repeated: tuple[str, ...]
    state: str
    version: str
    seconds: float
    problems: tuple[str, ...]


def small_csv() -> bytes:
    """240 labelled rows, four labels: enough for the gate as it is by default."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["text", "label"])
    for label, subjects in _SUBJECTS.items():
        writer.writerows([phrase.format(subject), label] for subject in subjects for phrase in _PHRASES)
    return out.getvalue().encode()


def prepare(template: Path, target: Path) -> Home:
    """A copy of a home, with the table's dataset."""
    shutil.copytree(template, target)
    home = Home.at(target)
    registry = home.registry()
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, DATASET, small_csv(), "csv")
    registry.close()
    return home


@contextlib.contextmanager
def worker(home: Home, crash_at: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A worker program on the home, ended with the block."""
    environment = os.environ | {
        "DRIFTLINE_DATABASE_URL": home.database_url,
        "DRIFTLINE_PROVIDER": "cpu",
        "OMP_WAIT_POLICY": "passive",
    }
    environment.pop(VARIABLE, None)
    if crash_at is not None:
        environment[VARIABLE] = crash_at
    with (home.data_dir / "worker.log").open("ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", "worker", "--data-dir", str(home.data_dir)],
            env=environment,
            stderr=log_file,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=30)


def run(home: Home, adapter: str, points: Sequence[str], patience_s: float = 120.0) -> Outcome:
    """Queue a job, kill the worker at each point in turn, start it a last time and look at what there is."""
    return run_chain(home, {adapter: points}, patience_s)[0]


def run_chain(home: Home, plan: Mapping[str, Sequence[str]], patience_s: float = 120.0) -> list[Outcome]:
    """Jobs (adapter -> points to be killed at), one after the other; one more start ends the last.

    The worker that ends a job is the one that dies in the next: a job's first point has to lie before the last point
    of the job ahead of it, lest it dies there again.
    """
    registry = home.registry()
    trials = []
    for adapter, points in plan.items():
        with registry.writing() as session:
            job = jobs.enqueue(session, adapter=adapter, dataset=DATASET, recipe=RECIPE, requested_by="kill-table")
        trial = _Trial(job.id, tuple(points), time.monotonic())
        trials.append(trial)
        for point in points:
            _kill(home, registry, trial, point, patience_s)
    with worker(home):
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not all(_settled(home, trial.job_id) for trial in trials):
            time.sleep(0.1)
    outcomes = [_outcome(home, registry, trial) for trial in trials]
    registry.close()
    return outcomes


@dataclass
class _Trial:
    """A job on its way: what was wrong so far, and the last of its events before the last start."""

    job_id: str
    points: tuple[str, ...]
    began: float
    problems: list[str] = field(default_factory=list)
    seen: int = 0


def _kill(home: Home, registry: Registry, trial: _Trial, point: str, patience_s: float) -> None:
    """Run a worker until it dies at the point."""
    with worker(home, point) as process:
        try:
            code = process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            trial.problems.append(f"{point} was not reached")
            return
    if code != -signal.SIGKILL:
        trial.problems.append(f"at {point} the worker ended with {code}, not by SIGKILL")
    if _children(home, trial.job_id, within_s=3.0):
        trial.problems.append(f"a fit outlived the worker killed at {point}")
    with registry.reading() as session:
        if jobs.get(session, trial.job_id).attempts != trial.points.index(point) + 1:
            trial.problems.append(f"the worker died at {point}, but of another job")
        trial.seen = max((event.id for event in jobs.events(session, trial.job_id)), default=0)


def _outcome(home: Home, registry: Registry, trial: _Trial) -> Outcome:
    with registry.reading() as session:
        ended = jobs.get(session, trial.job_id)
        later = jobs.events(session, trial.job_id, after=trial.seen)
        everything = jobs.events(session, trial.job_id)
    steps = tuple(dict.fromkeys(e.data["step"] for e in later if e.kind == "progress"))
    problems = [*trial.problems, *_verify(home, ended, [e.kind for e in everything].count("finished"))]
    name = "none" if ended.version is None else f"{ended.adapter}@{ended.version}"
    return Outcome(trial.points, steps, ended.state.value, name, time.monotonic() - trial.began, tuple(problems))


def _settled(home: Home, job_id: str) -> bool:
    """Whether the engine has noted the end of the job, which comes after the registry's, or has given it up."""
    with contextlib.closing(sqlite3.connect(f"file:{home.data_dir / 'jobs.sqlite'}?mode=ro", uri=True)) as engine:
        try:
            rows = engine.execute("SELECT status FROM workflow_status WHERE workflow_uuid = ?", (job_id,)).fetchall()
        except sqlite3.OperationalError:  # the tables are not there yet
            return False
    return [status for (status,) in rows] in (["SUCCESS"], ["ERROR"], ["MAX_RECOVERY_ATTEMPTS_EXCEEDED"])


def _verify(home: Home, job: jobs.Job, finished: int) -> list[str]:
    """What is not as it must be after a job that was interrupted."""
    problems = []
    if job.state is not JobState.SUCCEEDED:
        problems.append(f"the job {job.state.value}: {job.error}")
    if finished != 1:
        problems.append(f"the job finished {finished} times")
    registry = home.registry()
    with registry.reading() as session:
        # A job that died before its first step has not even made its adapter.
        known = job.adapter in {adapter.name for adapter in versions.all_adapters(session)}
        history = versions.history(session, job.adapter) if known else []
    if [(version.number, version.job_id) for version in history] != [(1, job.id)]:
        problems.append(f"there are {len(history)} versions instead of one")
    for version in history:
        Head.open(version.digest, registry.fetch)
        if version.reference is None:
            problems.append("the version has no reference")
        else:
            Reference.from_bytes(registry.fetch(version.reference))
        promoted = version.state is versions.VersionState.LIVE
        if promoted != ((version.verdict or {}).get("outcome") == "pass"):
            problems.append(f"the version is {version.state.value} against its verdict")
    registry.close()
    left = [path.name for folder in (home.work_dir, home.artifacts_dir / ".tmp") for path in folder.glob("*")]
    if left:
        problems.append(f"left behind: {', '.join(left)}")
    if _children(home, job.id, within_s=0.0):
        problems.append("a fit is still running")
    return problems


def _children(home: Home, job_id: str, within_s: float) -> list[int]:
    """Fits of this job that still run after so many seconds."""
    folder = str(home.work_dir / job_id).encode()
    deadline = time.monotonic() + within_s
    while True:
        alive = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if folder in (entry / "cmdline").read_bytes().split(b"\0"):
                    alive.append(int(entry.name))
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(0.05)


def _template(folder: Path) -> Path:
    from training.export import import_backbone

    home = Home.at(folder)
    registry = home.registry()
    manifest = import_backbone(None, registry.store)
    with registry.writing() as session:
        backbones.add(session, manifest.to_dict(), manifest.digest)
    registry.close()
    return folder


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, help="a home with a backbone; it is copied")
    parser.add_argument("points", nargs="*", default=POINTS, help="kill points (default: all)")
    options = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        template = options.home or _template(Path(scratch) / "template")
        home = prepare(template, Path(scratch) / "home")
        print(f"{'killed at':<18} {'the next start did':<58} {'end':<10} {'version':<10} {'s':>5}")
        for number, point in enumerate(options.points):
            found = run(home, f"k{number}", [point])
            done = _span(found.repeated)
            print(f"{point:<18} {done:<58} {found.state:<10} {found.version:<10} {found.seconds:>5.1f}", flush=True)
            for problem in found.problems:
                print(f"    PROBLEM: {problem}")
            failed += bool(found.problems)
    print(f"{len(options.points) - failed} of {len(options.points)} as promised")
    return 1 if failed else 0


def _span(steps: tuple[str, ...]) -> str:
    """Consecutive steps as "from … to …"; steps that tell no progress (publish, promote, finish) do not show."""
    if not steps:
        return "the steps after store"
    return steps[0] if len(steps) == 1 else f"{steps[0]} to {steps[-1]}, and what follows"


if __name__ == "__main__":
    sys.exit(main())
