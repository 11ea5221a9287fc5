"""Checkpoints of a fit: one safetensors file that appears whole or not at all; nothing in it can run code."""

import json
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from training.errors import FitFailed
from training.files import WorkFolder

FILE = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A fit as it stood after a step.

    Attributes:
        task: Digest of all that the fit follows from; a checkpoint serves no other fit.
        state: Numbers and curves, as plain JSON values. Every draw of a fit follows from its seed and the step's
            number, so that these two are its random state.
        tensors: Weights, averages and moments, by name.
    """

    task: str
    state: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, without that beginning."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def save(folder: WorkFolder, checkpoint: Checkpoint) -> None:
    """Write it in the place of the one before: temporary file, flush to disk, rename."""
    notes = {"task": checkpoint.task, "state": json.dumps(checkpoint.state, sort_keys=True, allow_nan=False)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    folder.write(FILE, safetensors.torch.save(tensors, notes))


def load(folder: WorkFolder, task: str) -> Checkpoint | None:
    """The checkpoint of a task, None where there is none yet.

    Raises:
        FitFailed: The file is damaged, or of another fit.
    """
    if not folder.has(FILE):
        return None
    try:
        with safe_open(folder.path / FILE, framework="pt") as stored:
            notes = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  no mapping
        state = json.loads(notes["state"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise FitFailed(f"{FILE} is damaged; delete it, and the fit starts from the beginning") from error
    if notes.get("task") != task:
        raise FitFailed(f"{FILE} is of another fit (other texts, rows or settings); delete it to start this one")
    return Checkpoint(task, state, tensors)


def moments(optimizer: Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's running means, as `<parameter>/<moment>`.

    Args:
        optimizer: Has made a step at least.
        names: Names of its parameters, in its own order.
    """
    found = {}
    for name, parameter in zip(names, _parameters(optimizer), strict=True):
        for moment in _MOMENTS:
            found[f"{name}/{moment}"] = optimizer.state[parameter][moment]
    return found


def set_moments(optimizer: Optimizer, names: list[str], found: dict[str, Tensor], step: int) -> None:
    """Put running means back, and the number of steps they rest on."""
    states = {
        index: {"step": float(step), **{moment: found[f"{name}/{moment}"] for moment in _MOMENTS}}
        for index, name in enumerate(names)
    }
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
