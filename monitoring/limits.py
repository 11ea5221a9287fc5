"""What a recipe may ask of the gate: the type and range of every field, and which values ask for less than the default.

A recipe comes from whoever may train. The ranges keep a request from costing hours or from switching a rule off
unnoticed; a gate that is merely laxer runs, and its version waits for a person.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from monitoring.collapse import GeometryLimits
from monitoring.errors import RecipeRefused
from monitoring.gate import GateSettings
from monitoring.quality import METRICS


@dataclass(frozen=True, slots=True)
class Range:
    """A number's bounds, both allowed. laxer: +1 where more than the default asks for less, -1 where less does."""

    low: float
    high: float
    laxer: int
    whole: bool = False

    def check(self, name: str, value: object) -> float:
        """The value as the field's type.

        Raises:
            RecipeRefused: Not a number of that type, or out of range.
        """
        kinds = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or value != value:
            raise RecipeRefused(f"recipe: {name} must be a {'whole' if self.whole else 'finite'} number")
        if not self.low <= value <= self.high:
            low, high = (int(bound) if bound == int(bound) else bound for bound in (self.low, self.high))
            raise RecipeRefused(f"recipe: {name} must lie between {low} and {high}")
        return value if self.whole else float(value)


GATE: Final[Mapping[str, Range]] = {
    "min_effect": Range(0, 0.5, -1),
    "margin": Range(1e-4, 0.2, 1),
    "margin_items": Range(0, 100, 1, whole=True),
    "min_items": Range(2, 1_000_000, -1, whole=True),
    "min_clusters": Range(2, 1_000_000, -1, whole=True),
    "confidence": Range(0.6, 0.9999, -1),
    "resamples": Range(100, 100_000, -1, whole=True),
    "seed": Range(0, 2**31 - 1, 0, whole=True),
    "robustness_margin": Range(1e-4, 0.2, 1),
    "calibration_margin": Range(1e-4, 0.2, 1),
    "group_margin": Range(1e-3, 0.5, 1),
    "group_min_items": Range(10, 1_000_000, 1, whole=True),
}
GEOMETRY: Final[Mapping[str, Range]] = {
    "max_cosine_rise": Range(0, 1, 1),
    "warn_cosine_rise": Range(0, 1, 1),
    "min_rank_ratio": Range(0, 1, -1),
    "max_uniformity_rise": Range(0, 4, 1),
    "max_first_component": Range(0, 1, 1),
    "max_norm_error": Range(1e-6, 0.1, 1),
    "min_overlap": Range(0, 1, -1),
}


def gate_settings(asked: Mapping[str, Any]) -> GateSettings:
    """The gate's settings with a recipe's changes.

    Raises:
        RecipeRefused: A field is unknown, of the wrong type, or out of range; the message names it.
    """
    values = dict(asked)
    _known(values, {f.name for f in dataclasses.fields(GateSettings)}, "gate")
    for name, allowed in GATE.items():
        if name in values:
            values[name] = allowed.check(f"gate.{name}", values[name])
    if "primary" in values and values["primary"] not in METRICS:
        raise RecipeRefused(f"recipe: gate.primary must be one of {', '.join(METRICS)}")
    if "guards" in values:
        values["guards"] = _guards(values["guards"])
    if "geometry" in values:
        values["geometry"] = _geometry(values["geometry"])
    return GateSettings(**values)


def laxer_fields(settings: GateSettings) -> list[str]:
    """Fields in which these settings ask for less than the defaults, or for something else; empty when in none.

    A different primary metric and a missing guard count: what they would have found is not asked. The bootstrap's
    seed does not.
    """
    usual = GateSettings()
    found = ["primary"] if settings.primary != usual.primary else []
    if not set(usual.guards) <= set(settings.guards):
        found.append("guards")
    found += _laxer(GATE, settings, usual)
    return found + [f"geometry.{name}" for name in _laxer(GEOMETRY, settings.geometry, usual.geometry)]


def _laxer(ranges: Mapping[str, Range], ours: object, usual: object) -> list[str]:
    return [name for name, r in ranges.items() if r.laxer * (getattr(ours, name) - getattr(usual, name)) > 0]


def _guards(value: object) -> tuple[str, ...]:
    named = list(value) if isinstance(value, list | tuple) else []
    if not named or not all(isinstance(name, str) and name in METRICS for name in named):
        raise RecipeRefused(f"recipe: gate.guards must list at least one of {', '.join(METRICS)}")
    return tuple(dict.fromkeys(named))


def _geometry(value: object) -> GeometryLimits:
    if not isinstance(value, Mapping):
        raise RecipeRefused("recipe: gate.geometry must be a table of limits")
    _known(value, set(GEOMETRY), "geometry")
    return GeometryLimits(**{name: GEOMETRY[name].check(f"gate.geometry.{name}", v) for name, v in value.items()})


def _known(values: Mapping[Any, Any], known: set[str], what: str) -> None:
    if unknown := shown([name for name in values if name not in known]):
        raise RecipeRefused(f"recipe: unknown {what} field {unknown}; known are {', '.join(sorted(known))}")


def shown(names: list[Any]) -> str:
    """Names of fields for a message; what is no plausible name is not repeated."""
    plain = [str(name) for name in names]
    return ", ".join(sorted(name if name.isidentifier() and len(name) <= 40 else "(no name)" for name in plain))
