"""Intervals of what the card states: 95 % unless said otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, binomtest, chi2


def share(events: int, trials: int) -> str:
    """A rate in per cent with its exact interval."""
    found = binomtest(events, trials).proportion_ci(method="exact")
    return f"{100 * events / trials:.2f} % ({100 * found.low:.2f} to {100 * found.high:.2f})"


def rate_length(items: int, alarms: int) -> str:
    """Items an alarm, with the exact interval of a Poisson count."""
    low = 2 * items / chi2.ppf(0.975, 2 * alarms + 2)
    if not alarms:
        return f"over {low:,.0f}"
    return f"{items / alarms:,.0f} ({low:,.0f} to {2 * items / chi2.ppf(0.025, 2 * alarms):,.0f})"


def clustered_mean(values: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Mean of all values and its bootstrap interval, whole clusters (values of one reference) drawn anew."""
    rng = np.random.default_rng(seed)
    sums, sizes = np.array([sum(v) for v in values]), np.array([len(v) for v in values])
    drawn = rng.integers(0, len(values), (10_000, len(values)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / sizes.sum()), float(low), float(high)


@dataclass(frozen=True)
class Delays:
    """Delays of one method in one scenario: items to the alarm; infinite where it never came."""

    values: tuple[float, ...]
    early: int
    """Runs left out, as their alarm came before the change."""

    @classmethod
    def of(cls, found: Sequence[int | str | None]) -> "Delays":
        """From a job's list: a number, None for never, "early"."""
        kept = [np.inf if value is None else float(value) for value in found if value != "early"]
        return cls(tuple(sorted(kept)), len(found) - len(kept))

    def quantile(self, q: float) -> float:
        """The delay that this part of the runs does not exceed."""
        return self.values[min(len(self.values) - 1, int(np.ceil(q * len(self.values))) - 1)]

    @property
    def interval(self) -> tuple[float, float]:
        """Of the median, from order statistics."""
        n = len(self.values)
        low = int(binom.ppf(0.025, n, 0.5))
        return self.values[max(0, low - 1)], self.values[min(n - 1, n - low)]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{_items(self.quantile(0.5))} ({_items(low)}-{_items(high)})"


def _items(delay: float) -> str:
    return "never" if np.isinf(delay) else f"{delay:,.0f}"
