"""The processes of one fit: alone, or started together by `torchrun` or `accelerate launch`."""

import torch
import torch.distributed
from torch import Tensor


class Team:
    """One process among the processes of a fit; alone unless it is told otherwise.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Where this process computes.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")

    @classmethod
    def of_environment(cls, *, cpu: bool = False) -> "Team":
        """The team and the device that the launcher set up: a GPU where there is one, unless `cpu` is set.

        Processes on the CPU talk through gloo.
        """
        from accelerate import PartialState  # type: ignore[import-untyped]

        state = PartialState(cpu=cpu)
        return cls(state.process_index, state.num_processes, state.device)

    def add_up(self, tensor: Tensor) -> None:
        """Put the sum over all processes in the place of the tensor."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)

    def of_first(self, value: float) -> float:
        """The value that the first process has: what all of them act on."""
        shared = torch.tensor(value if self.rank == 0 else 0.0, dtype=torch.float64, device=self.device)
        self.add_up(shared)
        return float(shared)

    def leave(self) -> None:
        """Take this process out of the team; nothing happens where it is alone."""
        if self.size > 1:
            torch.distributed.destroy_process_group()
