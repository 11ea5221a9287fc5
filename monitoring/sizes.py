"""How many items a reference needs, computed for a stated run length and said in words.

Little calibrates at all; more makes alarms faster and the stated run length closer to the real one. Each need comes
with what it is for, so that a person can decide what is worth collecting.
"""

from dataclasses import asdict, dataclass
from math import ceil, log, sqrt
from typing import Any, Final

from scipy.special import betaincinv

from monitoring.features import MIN_CALIBRATION as MIN_FEATURES
from monitoring.statistics import novel_rank, novelty_threshold

MIN_CALIBRATION: Final = 50
"""From here on a window of 256 alarms on a quarter of novel items at a run length of 1,000,000 (`smallest_share`)."""
MIN_FIT: Final = 20
"""Twice the neighbours that the novelty score averages over."""
REPLAY_WINDOWS: Final = 10
_TESTS: Final = 3
_DELTA: Final = 0.05


@dataclass(frozen=True, slots=True)
class Need:
    """Items of one part of a reference ("fit", "calibration", "replay"): how many there are, how many it takes.

    serves: what for. arms: without them no alarm is raised at all; the others sharpen what is there.
    """

    part: str
    have: int
    need: int
    serves: str
    arms: bool = False

    @property
    def met(self) -> bool:
        return self.have >= self.need

    @property
    def words(self) -> str:
        """One sentence."""
        missing = "" if self.met else f", {self.need - self.have:,} are missing"
        return f"{self.serves}: {self.need:,} {self.part} items ({self.have:,} there{missing})"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a reference of some size can do at a run length `arl`, and what would make it better.

    smallest_share: novel share of a window at which that window alarms. delay: requests until a share of 5 % of novel
    traffic alarms, about; delay_at_best: the same with endless calibration. Infinite where it never would.
    """

    arl: int
    window: int
    needs: tuple[Need, ...]
    smallest_share: float
    delay: float
    delay_at_best: float

    @property
    def why_not(self) -> str | None:
        """Why no alarm can be raised, in words; None when calibrated."""
        for need in self.needs:
            if need.arms and not need.met:
                return f"not calibrated yet: {need.have} {need.serves}, at least {need.need} are needed"
        return None

    @property
    def words(self) -> tuple[str, ...]:
        """The whole statement, a sentence each."""
        found = [self.why_not] if self.why_not else []
        if self.smallest_share <= 1:
            found.append(
                f"at a run length of {self.arl:,} a window of {self.window:,} alarms from {self.smallest_share:.1%} "
                "novel items on"
            )
        if self.delay < float("inf"):
            found.append(
                f"traffic that is 5 % novel alarms after about {self.delay:,.0f} requests, with endless calibration "
                f"after {self.delay_at_best:,.0f}"
            )
        return (*found, *(need.words for need in self.needs if not need.arms))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for the API; an infinite delay is None."""
        endless = float("inf")
        return {
            "arl": self.arl,
            "window": self.window,
            "smallest_share": min(1.0, self.smallest_share),
            "delay": None if self.delay == endless else self.delay,
            "delay_at_best": self.delay_at_best,
            "needs": [{**asdict(need), "met": need.met} for need in self.needs],
            "words": list(self.words),
        }


def sizes(
    *, fit: int, calibration: int, replay: int, cells: int, alpha0: float, arl: int = 1_000_000, window: int = 256
) -> Sizes:
    """What parts of these sizes, K cells and novelty line alpha0 can do.

    The needs: to raise alarms at all; random features (their spread must be known); neighbourhoods, 5 n sqrt((K - 1) /
    2), from which the error of the expected shares moves the occupancy test by less than a fifth of its standard
    deviation in a window of n; a run length close to the stated one, 100 / alpha0, from which the rate of novel items
    is known within a fifth; and a replay of ten windows to measure the monitor on.
    """
    needs = (
        Need("calibration", calibration, MIN_CALIBRATION, "held-out calibration items", arms=True),
        Need("fit", fit, MIN_FIT, "fitted items", arms=True),
        Need("calibration", calibration, MIN_FEATURES, "a test of random features"),
        Need("calibration", calibration, ceil(5 * window * sqrt((cells - 1) / 2)), "the whole strength of occupancy"),
        Need(
            "calibration",
            calibration,
            ceil(100 / alpha0),
            "a run length that this very reference keeps, not only the average one",
        ),
        Need("replay", replay, REPLAY_WINDOWS * window, "a measured run length"),
    )
    return Sizes(
        arl,
        window,
        needs,
        smallest_share(calibration, alpha0, arl, window),
        delay(0.05, calibration, alpha0, arl),
        _delay(0.05, alpha0, alpha0, arl),
    )


def smallest_share(n_cal: int, alpha0: float, arl: int, window: int) -> float:
    """The share of novel items from which on a window alarms by their number; above 1 when it never does."""
    return novelty_threshold(window, n_cal, alpha0, min(0.05, window / (arl * _TESTS))) / window


def delay(share: float, n_cal: int, alpha0: float, arl: int) -> float:
    """About how many requests it takes until a share of novel traffic alarms at a run length: log A / KL(q, a).

    a is the upper 95 % quantile of the calibration items' true rate of novel ones, Beta(l, n_cal + 1 - l); q the rate
    with the novel traffic in it. Infinite where q does not exceed a.
    """
    rank = novel_rank(n_cal, alpha0)
    if rank == 0:
        return float("inf")
    return _delay(share, alpha0, float(betaincinv(rank, n_cal + 1 - rank, 1 - _DELTA)), arl)


def _delay(share: float, alpha0: float, bound: float, arl: int) -> float:
    q = share + (1 - share) * alpha0
    if q <= bound:
        return float("inf")
    return log(arl) / (q * log(q / bound) + (1 - q) * log((1 - q) / (1 - bound)))
