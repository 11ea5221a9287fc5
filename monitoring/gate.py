"""The gate: may this candidate replace the champion? Judged item by item on rows no fit has seen, with reasons."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.collapse import GeometryLimits, geometry_reasons
from monitoring.errors import VectorsRefused
from monitoring.quality import Interval, Scores, paired_bootstrap
from monitoring.reasons import Reason

PRIMARY: Final = "ndcg_at_10"
GUARDS: Final = ("knn_accuracy",)


class Outcome(StrEnum):
    """What the gate says; only `PASS` may be promoted without a person."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class GateSettings:
    """When a candidate passes.

    primary: the metric that must improve. guards: metrics that must not get worse, judged where they were scored.
    min_effect: the least improvement of the primary's mean that is worth a promotion. margin: how much a guard may
    lose; never less than margin_items items of the gate set, since a small set cannot prove less. min_items: below
    this no verdict but inconclusive. All in units of the metric, 0.01 = one point.
    """

    primary: str = PRIMARY
    guards: tuple[str, ...] = GUARDS
    min_effect: float = 0.01
    margin: float = 0.02
    margin_items: int = 5
    min_items: int = 30
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    geometry: GeometryLimits = field(default_factory=GeometryLimits)

    def __post_init__(self) -> None:
        if not 0 <= self.min_effect < 1 or not 0 < self.margin < 1 or not 0.5 < self.confidence < 1:
            raise ValueError("min_effect and margin must lie in [0, 1), confidence in (0.5, 1)")
        if self.min_items < 2 or self.resamples < 100 or self.margin_items < 0:
            raise ValueError("min_items must be at least 2, resamples at least 100, margin_items at least 0")

    def margin_for(self, items: int) -> float:
        """The non-inferiority margin on a gate set of this size."""
        return max(self.margin, self.margin_items / items)


@dataclass(frozen=True, slots=True)
class Contender:
    """One model's results: per-item scores by metric (m,) in one item order; vectors (n, d) of generic rows."""

    name: str
    scores: Mapping[str, Scores]
    generic: NDArray[np.float32] | None = None

    def means(self) -> dict[str, float]:
        return {metric: float(np.mean(values)) for metric, values in self.scores.items()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer with its reasons, and the numbers behind it (`metrics` is plain JSON)."""

    outcome: Outcome
    reasons: tuple[Reason, ...]
    metrics: dict[str, Any]

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASS

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary: outcome, reasons (code, text, ok, numbers), metrics."""
        return {
            "outcome": self.outcome.value,
            "reasons": [reason.to_json() for reason in self.reasons],
            "metrics": self.metrics,
        }


def judge(
    candidate: Contender,
    champion: Contender | None,
    base: Contender,
    *,
    settings: GateSettings | None = None,
    clusters: ArrayLike | None = None,
) -> Verdict:
    """Compare a candidate with the champion (with the base when there is none) and with the base, on the same items.

    pass: the primary metric is better than the champion's by at least min_effect with a lower bound above 0, no guard
    can have lost more than its margin, the candidate is not worse than the base either, and its geometry holds.
    fail: the primary or a guard is worse beyond doubt, or the geometry collapsed. Everything else is inconclusive.
    `clusters` marks items that share a source; they are drawn together.

    Raises:
        VectorsRefused: scores of different lengths, a missing metric, or values that are not finite.
    """
    rules = settings or GateSettings()
    rival = champion or base
    items = _items(candidate, [rival, base], rules)
    reasons: list[Reason] = []
    doubts: list[bool] = []
    metrics: dict[str, Any] = {"items": items, "means": {c.name: c.means() for c in (candidate, rival, base)}}

    if items < rules.min_items:
        text = f"the gate set has {items} items; at least {rules.min_items} are needed for a verdict"
        reasons.append(Reason("too_few_items", text, {"items": items, "needed": rules.min_items}, ok=False))
        doubts.append(True)

    rivals = [rival] if rival is base else [rival, base]
    for other in rivals:
        compared = _compare(candidate, other, rules, clusters)
        metrics[f"vs_{other.name}"] = {name: asdict(interval) for name, interval in compared.items()}
        for name, interval in compared.items():
            if name not in (rules.primary, *rules.guards):
                continue  # reported, not ruled on
            if name == rules.primary and other is rival:
                reason, broken = _superior(name, other.name, interval, rules)
            else:
                reason, broken = _not_inferior(name, other.name, interval, rules)
            reasons.append(reason)
            doubts.append(not reason.ok and not broken)
    broken_geometry, geometry, facts = geometry_reasons(candidate.generic, base.generic, rules.geometry)
    metrics["geometry"] = facts
    reasons.extend(geometry)

    worse = [r for r in reasons if r.code.endswith("_worse")]
    if broken_geometry or (worse and items >= rules.min_items):
        outcome = Outcome.FAIL
    elif worse or any(doubts) or not all(r.ok for r in reasons):
        outcome = Outcome.INCONCLUSIVE
    else:
        outcome = Outcome.PASS
    return Verdict(outcome, tuple(reasons), metrics)


def _items(candidate: Contender, others: list[Contender], rules: GateSettings) -> int:
    lengths = {len(values) for c in (candidate, *others) for values in c.scores.values()}
    if len(lengths) != 1:
        raise VectorsRefused("every metric of every contender must be scored on the same items")
    needed = (rules.primary,)
    for contender in (candidate, *others):
        missing = [name for name in needed if name not in contender.scores]
        if missing:
            raise VectorsRefused(f"{contender.name} has no scores for {', '.join(missing)}")
    return lengths.pop()


def _compare(
    candidate: Contender, other: Contender, rules: GateSettings, clusters: ArrayLike | None
) -> dict[str, Interval]:
    """The difference of every metric both have, primary first.

    The primary's interval is two-sided; a guard's lower bound alone decides, so it has one-sided confidence
    (the usual form of a non-inferiority test).
    """
    shared = [name for name in candidate.scores if name in other.scores and name != rules.primary]
    return {
        name: paired_bootstrap(
            np.asarray(candidate.scores[name]) - np.asarray(other.scores[name]),
            clusters,
            seed=rules.seed,
            n=rules.resamples,
            confidence=rules.confidence if name == rules.primary else 2 * rules.confidence - 1,
        )
        for name in (rules.primary, *shared)
    }


def _superior(metric: str, other: str, found: Interval, rules: GateSettings) -> tuple[Reason, bool]:
    numbers = {**_numbers(found), "min_effect": rules.min_effect}
    told = f"{metric} against {other}: {_points(found)}"
    if found.high < 0:
        return Reason(f"{metric}_worse", f"{told}; worse beyond doubt", numbers, ok=False), True
    if found.low > 0 and found.mean >= rules.min_effect:
        return Reason(
            f"{metric}_better", f"{told}; better, by at least {_point(rules.min_effect)}", numbers, ok=True
        ), False
    if found.low > 0:
        text = f"{told}; better, but by less than {_point(rules.min_effect)}"
        return Reason(f"{metric}_too_small", text, numbers, ok=False), False
    return Reason(f"{metric}_unclear", f"{told}; the interval does not exclude 0", numbers, ok=False), False


def _not_inferior(metric: str, other: str, found: Interval, rules: GateSettings) -> tuple[Reason, bool]:
    margin = rules.margin_for(found.items)
    numbers = {**_numbers(found), "margin": margin}
    told = f"{metric} against {other}: {_points(found)}"
    if found.low > -margin:
        return Reason(f"{metric}_kept", f"{told}; a loss above {_point(margin)} is excluded", numbers, ok=True), False
    if found.high < 0:
        return Reason(f"{metric}_worse", f"{told}; worse beyond doubt", numbers, ok=False), True
    text = f"{told}; a loss above {_point(margin)} cannot be excluded with {found.items} items"
    return Reason(f"{metric}_unclear", text, numbers, ok=False), False


def _numbers(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "items": found.items}


def _points(found: Interval) -> str:
    bounds = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return f"{100 * found.mean:+.2f} points ({found.confidence:.0%} interval {bounds})"


def _point(value: float) -> str:
    return f"{100 * value:.1f} points"
