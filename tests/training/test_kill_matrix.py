"""A worker killed with SIGKILL before, during and after every step: the next start ends the job, once, and whole.

Real worker programs on the real backbone. Each chain kills one job three times, which is as often as a job may be
taken up again; between them the chains visit every kill point.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def test_killed_at_every_point_a_job_succeeds_once_and_leaves_nothing_behind(
    kill_table: Any, exported_backbone: Path, tmp_path: Path
) -> None:
    # Points of one chain lie in the order of the steps, and chains are as long as recovery allows.
    points = kill_table.POINTS
    assert len(points) == 25
    chains = [points[start::9] for start in range(9)]
    assert sorted(p for chain in chains for p in chain) == sorted(points)

    def die(chains: list[tuple[str, ...]], name: str) -> list[Any]:
        home = kill_table.prepare(exported_backbone, tmp_path / name)
        return [kill_table.run(home, f"{name}{number}", chain) for number, chain in enumerate(chains)]

    # Two homes side by side: much of the time a worker waits for processes to start.
    with ThreadPoolExecutor(2) as pool:
        halves = [pool.submit(die, chains[side::2], f"home{side}") for side in range(2)]
        outcomes = [outcome for half in halves for outcome in half.result()]
    problems = {outcome.points: outcome.problems for outcome in outcomes if outcome.problems}
    assert not problems
    assert {outcome.state for outcome in outcomes} == {"succeeded"}
    assert len(outcomes) == len(chains)


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
    assert not list(home.work_dir.iterdir())
