"""Distributed mode as a whole: services behind nginx and workers, on PostgreSQL, S3 and a cache, that are killed.

The long form is benchmarks/distributed.py; this is the same drill, shorter.
"""

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from registry.home import Home
from registry.jobs import JobState

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
PROMOTIONS = 10
EVIDENCE = 200
TAKE_OVER_S = 4.0


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drills() -> Iterator[Any]:
    """The module benchmarks/distributed.py; the modules that it imports are unknown again afterwards."""
    names = ("tiny", "cluster", "kill_table", "distributed")
    before = {name: sys.modules.get(name) for name in names}
    cluster = [_module(name) for name in names][1]
    if lacking := cluster.missing():
        pytest.skip(f"not installed: {', '.join(lacking)}")
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    yield sys.modules["distributed"]
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


def test_promotions_under_load_with_killed_services_and_a_worker_whose_disk_is_lost(
    drills: Any, exported_backbone: Path, tmp_path: Path
) -> None:
    giver = Home.at(exported_backbone, f"sqlite:///{exported_backbone}/registry.sqlite").registry()
    with drills.running(tmp_path, take_over_s=TAKE_OVER_S) as cluster:
        registry = Home.at(tmp_path / "driver").registry()
        tiny = drills.models.add_backbone(giver, registry)
        giver.close()
        for process in (*cluster.services, *cluster.workers):
            process.start()
        for number in range(2):
            drills.until("a service", lambda number=number: cluster.ready(number))
        with ThreadPoolExecutor(1) as pool:
            refit = pool.submit(drills.lose_a_worker, cluster, registry)
            counted, sharers = drills.merge_evidence(cluster, registry, tiny, EVIDENCE)
            found = drills.drill(cluster, registry, tiny, PROMOTIONS, PROMOTIONS, clients=3, pause_s=0.01)
            job, _, published = refit.result()
        registry.close()
    assert (counted, sharers) == (EVIDENCE + 2, 2)
    assert found.failures == []
    assert found.late == []
    assert found.wrong == 0
    assert found.vectors > 50 * PROMOTIONS
    assert found.kills == 3
    assert len(found.follows) > PROMOTIONS
    assert (job.state, job.error, job.attempts) == (JobState.SUCCEEDED, None, 2)
    assert published == 1
