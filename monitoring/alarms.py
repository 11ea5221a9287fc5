"""Alarm: what stood out when it was raised, since when, how large the shift is, and whether it calls for action."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from monitoring.errors import StateRefused
from monitoring.monitor_settings import MonitorSettings


@dataclass(frozen=True, slots=True)
class Contribution:
    """One detector's part in an alarm.

    detector: "novelty", "cell", "segment", "occupancy_fast", "occupancy_slow", or, in the mode "windows", the
    statistic's name. cell, label: the neighbourhood concerned, of a cell's detector or of an average of all their
    shares. segment: of a segment's. share: of the evidence, in (0, 1].
    """

    detector: str
    share: float
    cell: int | None = None
    label: str | None = None
    segment: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """How large a shift is: the estimate from n observations and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a second look at kept vectors said: area under the classifier's curve (0.5: nothing to tell apart) with its
    interval, and the p-value of the nearest-neighbour test.
    """

    auc: float
    auc_low: float
    auc_high: float
    knn_p: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """A latched alarm.

    statistics: the kinds of detectors that raised it, largest part first. window_number: windows judged by then.
    observation: how many vectors the monitor had observed by then. moved: the neighbourhoods that changed since
    `change_observation`, the estimated begin of the change. detectors: who raised it, with shares of the evidence.
    segment: the segment concerned, None for the traffic as a whole. effects: "novelty_ratio" and "tv_excess" since the
    change. actionable: whether one of them is as large as the settings ask; both are measured anew with every batch.
    """

    statistics: tuple[str, ...]
    window_number: int
    observation: int
    moved: tuple[dict[str, Any], ...]
    detectors: tuple[Contribution, ...] = ()
    segment: str | None = None
    change_observation: int = 0
    effects: Mapping[str, Effect] = field(default_factory=dict)
    actionable: bool = False
    confirmation: Confirmation | None = None

    def judged(self, effects: Mapping[str, Effect], settings: MonitorSettings) -> "Alarm":
        """This alarm with effects measured anew, and whether it calls for action by them or by its confirmation."""
        least = {"novelty_ratio": settings.min_novelty_ratio, "tv_excess": settings.min_tv}
        large = any(effects[name].value >= limit for name, limit in least.items() if name in effects)
        confirmed = self.confirmation is not None and self.confirmation.auc >= settings.min_auc
        return replace(self, effects=dict(effects), actionable=large or confirmed)

    def to_json(self) -> dict[str, Any]:
        return {
            "statistics": list(self.statistics), "window_number": self.window_number,
            "observation": self.observation, "moved": list(self.moved),
            "detectors": [asdict(d) for d in self.detectors], "segment": self.segment,
            "change_observation": self.change_observation,
            "effects": {name: asdict(effect) for name, effect in self.effects.items()},
            "actionable": self.actionable,
            "confirmation": None if self.confirmation is None else asdict(self.confirmation),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Any) -> "Alarm":
        """Read `to_json` back; alarms of older releases name no detectors and call for action.

        Raises:
            StateRefused: damaged.
        """
        try:
            confirmation, segment = data.get("confirmation"), data.get("segment")
            return cls(
                tuple(str(s) for s in data["statistics"]),
                int(data["window_number"]),
                int(data["observation"]),
                tuple(dict(m) for m in data["moved"]),
                tuple(_contribution(d) for d in data.get("detectors", ())),
                None if segment is None else str(segment),
                int(data.get("change_observation", 0)),
                {str(name): _effect(e) for name, e in data.get("effects", {}).items()},
                bool(data.get("actionable", True)),
                None if confirmation is None else Confirmation(**{k: float(v) for k, v in confirmation.items()}),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise StateRefused(f"not a stored alarm ({type(error).__name__})") from error


def _contribution(data: Mapping[str, Any]) -> Contribution:
    cell = data["cell"]
    return Contribution(
        str(data["detector"]), float(data["share"]), None if cell is None else int(cell), data["label"], data["segment"]
    )


def _effect(data: Mapping[str, Any]) -> Effect:
    return Effect(float(data["value"]), float(data["low"]), float(data["high"]), int(data["n"]))


# An alarm of which nothing is known but that it stands.
UNEXPLAINED = Alarm((), 0, 0, (), actionable=True)
