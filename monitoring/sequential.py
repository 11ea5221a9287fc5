"""The sequential judgement of a stream: evidence and averages together at one stated run length, and what they name."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitoring.alarms import Contribution
from monitoring.bets import DELTA_CELLS, DELTA_NOVELTY, bets
from monitoring.blocks import Block, Recent
from monitoring.causes import Cause
from monitoring.errors import StateRefused
from monitoring.evidence import Evidence, Part
from monitoring.ewma import NAMES, Occupancy
from monitoring.reference import Reference
from monitoring.statistics import cell_z_scores, occupancy_test
from monitoring.window import Window

OCCUPANCY_SHARE: Final = 0.2
"""u: the part of all false alarms that the averages may raise; the bets get the rest."""
_NAMED: Final = 5
_LEAST_SHARE: Final = 0.05


class Sequential:
    """Evidence, averages and recent counts of one stream at a stated mean run length `arl`.

    The bets alarm at A = arl / (1 - u - delta), delta the chance that a bound of theirs does not hold for this draw of
    calibration items; the averages have a hazard of u / arl. Of the first alarm, at T: where the bounds hold, E[T] >=
    A P(bets first), and P(averages first) <= u E[T] / arl. So E[T] >= A (1 - delta - u E[T] / arl), hence E[T] >= arl.
    """

    def __init__(self, reference: Reference, arl: float) -> None:
        counts = tuple(reference.calibration_cells.tolist())
        self._reference = reference
        self._hazard_arl = arl / OCCUPANCY_SHARE
        self._log_line = float(np.log(arl / (1 - OCCUPANCY_SHARE - DELTA_NOVELTY - DELTA_CELLS)))
        self._evidence = Evidence(bets(reference.n_cal, counts))
        self._occupancy = Occupancy(counts)
        self._recent = Recent(reference)
        self._stepped = False

    def add(self, batch: Window, before: int) -> None:
        """Count a batch with `before` observations made before it."""
        self._evidence.add(batch, before)
        self._stepped = self._occupancy.add(batch)
        self._recent.add(batch, before)

    def cause(self) -> Cause | None:
        """The cause of an alarm if there is one since the latest batch."""
        if not self._reference.calibrated:
            return None
        if self._evidence.log_total >= self._log_line:
            return self._bets_won()
        return self._averages_moved() if self._stepped else None

    def placed(self, batch: Window) -> Window:
        """The batch with the segments for which there is no place left counted as one, `evidence.OTHER`."""
        return self._evidence.placed(batch)

    def reset(self, observations: int) -> None:
        """Begin anew at nothing, after this many observations."""
        self._evidence.reset(observations)
        self._occupancy.reset()
        self._recent.clear()

    def since(self, observation: int) -> Block:
        """Counts of the batches since an observation, as near as is known."""
        return self._recent.since(observation)

    def evidence_log(self) -> dict[str, tuple[float, float]]:
        """Log evidence and the log line at which it would alarm alone, of "total" and of each detector by its name:
        "novelty", "cell:12", "segment:mobile".
        """
        found = {"total": (self._evidence.log_total, self._log_line)}
        for part in self._evidence.parts():
            found[_name(part)] = (part.log, self._log_line - float(np.log(part.weight)))
        return found

    def occupancy(self) -> dict[str, tuple[float, float]]:
        """Value and threshold of each average, by its name."""
        limits = self._occupancy.thresholds(self._hazard_arl)
        pairs = zip(NAMES, self._occupancy.values.tolist(), limits.tolist(), strict=True)
        return {name: (value, limit) for name, value, limit in pairs}

    def _bets_won(self) -> Cause:
        total = self._evidence.log_total
        parts = sorted(self._evidence.parts(), key=lambda part: -part.weighted)[:_NAMED]
        named = [self._contribution(part, float(np.exp(part.weighted - total))) for part in parts]
        return Cause(tuple(c for c in named if c.share >= _LEAST_SHARE) or (named[0],), parts[0].begin)

    def _contribution(self, part: Part, share: float) -> Contribution:
        label = None if part.cell is None else self._reference.cells[part.cell].label
        return Contribution(part.kind, share, part.cell, label, part.segment)

    def _averages_moved(self) -> Cause | None:
        ratios = [value / limit for value, limit in self.occupancy().values()]
        most = int(np.argmax(ratios))
        if ratios[most] < 1:
            return None
        since = max(self._recent.suffixes(), key=self._mix_excess)
        squares = cell_z_scores(since.window.cells, self._reference.pi, self._reference.n_cal) ** 2
        shares = squares / max(squares.sum(), 1e-12)
        largest = np.argsort(-shares)[:_NAMED].tolist()
        named = [Contribution(NAMES[most], float(shares[j]), j, self._reference.cells[j].label) for j in largest]
        return Cause(tuple(c for c in named if c.share >= _LEAST_SHARE) or (named[0],), since.begin)

    def _mix_excess(self, block: Block) -> float:
        """How far a block's mix of cells is from the expected one: its standardised chi-square."""
        test = occupancy_test(block.window.cells, self._reference.pi, self._reference.n_cal)
        return float((test.statistic - test.dof) / np.sqrt(2 * max(1, test.dof)))

    def to_json(self) -> dict[str, Any]:
        """The state as a plain dictionary."""
        return {
            "evidence": self._evidence.to_json(),
            "occupancy": self._occupancy.to_json(),
            "recent": self._recent.to_json(),
        }

    def read(self, data: Mapping[str, Any]) -> None:
        """Go on from what `to_json` gave.

        Raises:
            StateRefused: damaged, or of another reference.
        """
        try:
            parts = data["evidence"], data["occupancy"], data["recent"]
        except (KeyError, TypeError) as error:
            raise StateRefused(f"not a stored judgement ({type(error).__name__})") from error
        self._evidence.read(parts[0])
        self._occupancy.read(parts[1])
        self._recent.read(parts[2])


def _name(part: Part) -> str:
    which = part.segment if part.cell is None else part.cell
    return part.kind if which is None else f"{part.kind}:{which}"
