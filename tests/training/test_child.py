"""The fit's process: ends with a cancel, with its holder, and with a reason when it fails."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monitoring.recipe import Recipe
from training import problem
from training.child import FitProcess
from training.errors import FitFailed, JobCancelled
from training.files import WorkFolder
from training.modules import ResidualHead
from training.problem import LabelledProblem
from training.weights import HeadWeights


@pytest.fixture
def folder(tmp_path: Path, labelled_problem: Callable[..., LabelledProblem]) -> WorkFolder:
    work = WorkFolder(tmp_path / "job")
    work.create()
    task = labelled_problem()
    work.write("problem.safetensors", problem.to_bytes(task))
    draw = np.random.default_rng(7).normal(size=(60, task.vectors.shape[1])).astype(np.float32)
    apart = draw / np.linalg.norm(draw, axis=1, keepdims=True)
    work.write_arrays("generic.safetensors", {"judged": apart[::2], "replayed": apart[1::2]})
    return work


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_fit_leaves_weights_report_and_witness(folder: WorkFolder) -> None:
    folder.write_json("recipe.json", Recipe(steps=12, hidden=16, patience=100).to_dict())
    told: list[int] = []
    FitProcess(folder.path).wait(lambda message: told.append(message["step"]), lambda: None, 60)
    assert told == list(range(13))
    weights = HeadWeights.from_bytes(folder.read("weights.safetensors"))
    witness = folder.read_arrays("witness.safetensors")
    np.testing.assert_allclose(weights.apply(witness["inputs"]), witness["outputs"], atol=2e-6)
    assert isinstance(ResidualHead.from_weights(weights), ResidualHead)
    assert folder.read_json("head.json")["steps_run"] == 12
    assert not list(folder.path.glob("*.part"))


def test_replay_keeps_the_head_near_the_base_elsewhere(folder: WorkFolder) -> None:
    apart = folder.read_arrays("generic.safetensors")["judged"]
    kept = []
    for replay in (0.0, 50.0):
        (folder.path / "head.json").unlink(missing_ok=True)
        recipe = Recipe(steps=40, hidden=16, patience=100, alpha=1.0, replay=replay)
        folder.write_json("recipe.json", recipe.to_dict())
        FitProcess(folder.path).wait(lambda message: None, lambda: None, 60)
        adapted = HeadWeights.from_bytes(folder.read("weights.safetensors")).apply(apart)
        kept.append(float((adapted * apart).sum(axis=1).mean()))
    assert kept[1] > kept[0]


def test_a_cancel_ends_the_process_group_at_once(folder: WorkFolder) -> None:
    folder.write_json("recipe.json", Recipe(steps=100_000, patience=10_000).to_dict())
    process = FitProcess(folder.path)
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    asked: list[float] = []

    def tick() -> None:
        asked.append(time.monotonic())
        raise JobCancelled("asked")

    with pytest.raises(JobCancelled):
        process.wait(lambda message: None, tick, 60)
    assert time.monotonic() - asked[0] < 2
    assert not alive(process.pid)
    assert not folder.has("head.json")


def test_a_fit_dies_with_its_holder_even_by_kill_9(folder: WorkFolder) -> None:
    folder.write_json("recipe.json", Recipe(steps=100_000, patience=10_000).to_dict())
    code = (
        "import sys, pathlib; from training.child import FitProcess\n"
        "p = FitProcess(pathlib.Path(sys.argv[1])); print(p.pid, flush=True)\n"
        "p.wait(lambda message: print('told', flush=True), lambda: None, 600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        fit = int(holder.stdout.readline())
        assert holder.stdout.readline() == b"told\n"
        assert alive(fit)
        holder.kill()
        holder.wait()
    deadline = time.monotonic() + 5
    while alive(fit):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_failure_is_told_and_a_sudden_death_is_explained(folder: WorkFolder) -> None:
    folder.write("problem.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    folder.write_json("recipe.json", {})
    with pytest.raises(FitFailed, match="no known kind"):
        FitProcess(folder.path).wait(lambda message: None, lambda: None, 60)
    process = FitProcess(folder.path)
    os.killpg(process.pid, 9)
    with pytest.raises(FitFailed, match="want of memory; lower batch_size"):
        process.wait(lambda message: None, lambda: None, 60)
