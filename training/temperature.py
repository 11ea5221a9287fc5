"""The temperature of the loss step by step: fixed, on a schedule, or learned beside the head."""

import math

import torch
from torch import Tensor, nn

LEAST, MOST = 0.01, 0.5
LEARNING_RATE = 0.01


class Temperature(nn.Module):
    """Gives the temperature of each step of a fit.

    Kukleva et al. 2023 (arXiv 2303.13664) for the cosine schedule; a learned temperature is the exponential of a free
    parameter, as in CLIP (arXiv 2103.00020, section 2.5). Without bounds it runs to 0 on separable data, so `clamp`
    keeps it within LEAST and MOST, widened to where it starts.

    Args:
        start: Temperature of the first step.
        schedule: "fixed", "linear", "cosine" or "learned".
        end: Temperature of the last step, for "linear" and "cosine".
        steps: Steps of the fit.

    Raises:
        ValueError: Temperatures that are not above 0, an unknown schedule, or a schedule without its end.
    """

    def __init__(self, start: float, schedule: str = "fixed", end: float | None = None, steps: int = 1) -> None:
        super().__init__()
        if schedule not in ("fixed", "linear", "cosine", "learned"):
            raise ValueError(f"no temperature schedule is called {schedule!r}")
        if start <= 0 or (end is not None and end <= 0):
            raise ValueError("a temperature must be above 0")
        if end is None and schedule in ("linear", "cosine"):
            raise ValueError(f"a {schedule} schedule needs the temperature it ends at")
        self.start, self.schedule, self.steps = start, schedule, steps
        self.end = start if end is None else end
        self.logarithm = nn.Parameter(torch.tensor(math.log(start))) if schedule == "learned" else None

    def at(self, step: int) -> float | Tensor:
        """The temperature of a step, counted from 1: a number, or a scalar tensor with a gradient where it is learned.

        Steps past the last one have the last one's.
        """
        if self.logarithm is not None:
            return self.logarithm.exp()
        done = min(1.0, (step - 1) / max(1, self.steps - 1))
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done

    def clamp(self) -> None:
        """Bring a learned temperature back between its bounds; to be called after each optimiser step."""
        if self.logarithm is not None:
            with torch.no_grad():
                self.logarithm.clamp_(math.log(min(LEAST, self.start)), math.log(max(MOST, self.start)))
