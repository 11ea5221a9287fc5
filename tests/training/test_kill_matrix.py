"""A worker killed with SIGKILL at every step: the next start ends the job, once, and whole.

Real worker programs on the real backbone. The jobs visit every step once, before, during or after it;
benchmarks/kill_table.py goes through every point.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Two homes side by side, each with jobs that die up to three times: much of the time a worker waits for processes.
PLANS = (
    {
        "a": ("gate.before", "report.after", "reference.after"),
        "b": ("snapshot.after", "fit.during", "export.before"),
    },
    {
        "d": ("encode.before", "evaluate.after", "finish.after"),
        "e": ("check.before", "store.after", "promote.after"),
        "f": ("publish.after",),
    },
)


def test_killed_in_any_step_a_job_succeeds_once_and_leaves_nothing_behind(
    kill_table: Any, exported_backbone: Path, tmp_path: Path
) -> None:
    points = [point for plan in PLANS for chain in plan.values() for point in chain]
    assert set(points) <= set(kill_table.POINTS)
    assert len(points) == len(kill_table.NAMES)
    assert {point.split(".")[0] for point in points} == set(kill_table.NAMES)

    def die(number: int) -> list[Any]:
        home = kill_table.prepare(exported_backbone, tmp_path / f"home{number}")
        return list(kill_table.run_chain(home, PLANS[number]))

    with ThreadPoolExecutor(2) as pool:
        outcomes = [outcome for found in pool.map(die, range(2)) for outcome in found]
    assert not {outcome.points: outcome.problems for outcome in outcomes if outcome.problems}
    assert [outcome.state for outcome in outcomes] == ["succeeded"] * 5


def test_a_job_that_keeps_killing_its_worker_is_given_up_with_a_reason(
    kill_table: Any, exported_backbone: Path, tmp_path: Path
) -> None:
    from registry import jobs, versions

    home = kill_table.prepare(exported_backbone, tmp_path / "home")
    found = kill_table.run(home, "poison", ["snapshot.before"] * 4)
    assert found.state == "failed"
    registry = home.registry()
    with registry.reading() as session:
        job = jobs.all(session)[0]
        assert versions.all_adapters(session) == []
    registry.close()
    assert job.error is not None
    assert "died 4 times" in job.error
    assert "queue it again" in job.error
    assert job.attempts == 5
    assert not list(home.work_dir.iterdir())
