"""MonitorSettings: at what run length a monitor alarms, in which mode, and how large a shift must be to act on it."""

from dataclasses import dataclass
from typing import Final, Literal

Mode = Literal["sequential", "windows"]
MODES: Final[tuple[Mode, ...]] = ("sequential", "windows")
SMALLEST_WINDOW: Final = 32


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """How a monitor judges.

    arl: while traffic is exchangeable with the calibration items, the whole monitor raises at most one false alarm in
    this many observations on average. That average runs over draws of the calibration items as well as of the traffic:
    a given reference, with its one draw, may run shorter or longer, and the more so the fewer calibration items it has.
    mode: "sequential" judges every batch by the evidence gathered so far and alarms as soon as that is enough;
    "windows" judges tumbling windows one by one, each from nothing. Windows are read in both modes.
    window: observations in one tumbling window.
    min_novelty_ratio, min_tv, min_auc: an alarm calls for action when the novelty rate is this many times the expected
    one, or the total variation of the neighbourhoods this far above its null mean, or a confirming classifier tells
    new from old with at least this area under the curve. In the mode "windows" only such windows raise an alarm.
    """

    window: int = 256
    arl: int = 1_000_000
    min_novelty_ratio: float = 2.0
    min_tv: float = 0.05
    min_auc: float = 0.60
    mode: Mode = "sequential"

    def __post_init__(self) -> None:
        if self.window < SMALLEST_WINDOW:
            raise ValueError(f"a window of {self.window} observations is too small to judge; at least 32")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}")
        if self.mode == "windows" and self.arl < 10 * self.window:
            raise ValueError(f"arl {self.arl} must be at least ten windows ({10 * self.window})")
        if self.arl < 100:
            raise ValueError(f"an arl of {self.arl} observations is no run length; at least 100")
        if self.min_novelty_ratio < 1 or not 0 <= self.min_tv < 1 or not 0.5 <= self.min_auc < 1:
            raise ValueError("min_novelty_ratio must be at least 1, min_tv in [0, 1) and min_auc in [0.5, 1)")

    def level(self, n: int, tests: int = 2) -> float:
        """Significance level of each of this many tests of a window of n: n / (arl x tests), at most 0.05."""
        return min(0.05, n / (self.arl * tests))
