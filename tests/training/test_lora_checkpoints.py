"""Checkpoints: a killed fit goes on to the very weights of one that was not, and nothing else is gone on from."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open

from training import checkpoints
from training.checkpoints import FILE, Checkpoint
from training.errors import FitFailed
from training.files import WorkFolder
from training.lora_fit import FittedLora, fit_lora
from training.lora_settings import LoraSettings
from training.problem import LabelledProblem
from training.sentence import SentenceModule

SETTINGS = LoraSettings(
    steps=12,
    batch_size=16,
    rank=4,
    alpha=8,
    dropout=0.2,
    precision="fp32",
    learning_rate=5e-3,
    evaluations=6,
    patience=9,
    checkpoint_every=3,
)


class Killed(Exception):
    """Stands for the end of a process."""


def small_fit(folder: WorkFolder | None, settings: LoraSettings = SETTINGS, die_at: int | None = None) -> FittedLora:
    """A fit of a small random model on random texts; raises at the first measurement from a step on."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    rng = np.random.default_rng(1)
    texts = [[int(word) for word in rng.integers(3, 60, size=rng.integers(2, 9))] for _ in range(48)]
    labels = np.arange(48, dtype=np.int64) % 4
    problem = LabelledProblem(
        np.zeros((48, 16), np.float32), np.arange(32), labels[:32], np.arange(32, 48), labels[32:]
    )

    def progress(message: dict[str, Any]) -> None:
        if die_at is not None and message["step"] >= die_at:
            raise Killed

    module = SentenceModule(transformers.BertModel(config), "mean").eval()
    return fit_lora(module, texts, problem, settings, progress, folder=folder)


def equal(one: FittedLora, other: FittedLora) -> bool:
    same = all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    return same and np.array_equal(one.witness[1], other.witness[1])


@pytest.fixture
def folder(tmp_path: Path) -> WorkFolder:
    made = WorkFolder(tmp_path / "fit")
    made.create()
    return made


@pytest.mark.parametrize("die_at", [4, 10])
def test_a_fit_that_was_broken_off_gives_the_same_weights_to_the_bit(folder: WorkFolder, die_at: int) -> None:
    whole = small_fit(None)
    with pytest.raises(Killed):
        small_fit(folder, die_at=die_at)
    assert folder.has(FILE)
    with safe_open(folder.path / FILE, framework="pt") as stored:
        assert f'"step": {die_at // 3 * 3}' in stored.metadata()["state"]
    again = small_fit(folder)
    assert equal(whole, again)
    assert [point[0] for point in again.report["curve"]] == [2, 4, 6, 8, 10, 12]
    assert again.report["curve"] == whole.report["curve"]


def test_a_fit_killed_by_the_system_goes_on(folder: WorkFolder) -> None:
    command = [sys.executable, __file__, str(folder.path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert equal(small_fit(folder), small_fit(None))
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_of_another_fit_is_refused(folder: WorkFolder) -> None:
    with pytest.raises(Killed):
        small_fit(folder, die_at=4)
    with pytest.raises(FitFailed, match="is of another fit"):
        small_fit(folder, replace(SETTINGS, learning_rate=1e-3))


@pytest.mark.parametrize("damage", [b"", b"\x80\x04pickled", None])
def test_a_damaged_checkpoint_is_refused(folder: WorkFolder, damage: bytes | None) -> None:
    checkpoints.save(folder, Checkpoint("task", {"step": 3}, {"a": torch.ones(3)}))
    whole = folder.read(FILE)
    (folder.path / FILE).write_bytes(whole[:-5] if damage is None else damage)
    with pytest.raises(FitFailed, match="is damaged"):
        checkpoints.load(folder, "task")


def test_a_writer_that_dies_leaves_the_checkpoint_before(folder: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(folder, Checkpoint("task", {"step": 3}, {"a": torch.ones(3)}))

    def dies(descriptor: int) -> None:
        raise Killed

    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(Killed):
        checkpoints.save(folder, Checkpoint("task", {"step": 6}, {"a": torch.zeros(3)}))
    found = checkpoints.load(folder, "task")
    assert found is not None
    assert found.state == {"step": 3}
    assert torch.equal(found.tensors["a"], torch.ones(3))
    assert found.part("a") == {"": found.tensors["a"]}


def test_moments_come_back_as_they_were() -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    (parameter**2).sum().backward()
    optimizer.step()
    held = {name: tensor.clone() for name, tensor in checkpoints.moments(optimizer, ["w"]).items()}
    fresh = torch.optim.AdamW([parameter], lr=0.1)
    checkpoints.set_moments(fresh, ["w"], held, 1)
    assert float(fresh.state[parameter]["step"]) == 1
    for name, tensor in checkpoints.moments(fresh, ["w"]).items():
        assert torch.equal(tensor, held[name])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    torch.set_num_threads(1)
    try:
        small_fit(WorkFolder(Path(sys.argv[1])), die_at=8)
    except Killed:
        os.kill(os.getpid(), signal.SIGKILL)
