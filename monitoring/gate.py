"""The gate: may this candidate replace the champion? Judged item by item on rows neither was fitted on."""

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
FALLBACK_GUARD: Final = "nn_accuracy"
MARGIN_CAP: Final = 0.05
"""A small set widens a guard's margin up to here and no further: a bigger loss is one that users notice."""


class Outcome(StrEnum):
    """What the gate says; only `PASS` may be promoted without a person."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class GateSettings:
    """When a candidate passes.

    primary: the metric that must improve. guards: metrics that must not get worse, judged where they were scored;
    where none of them was (pairs have no knn_accuracy), nn_accuracy guards. min_effect: the least improvement of the
    primary's mean that is worth a promotion. margin: how much a guard may lose; on a small gate set as much as
    margin_items clusters of it, since it cannot prove less, but then never more than MARGIN_CAP. min_items,
    min_clusters: with fewer items, or fewer independent clusters of them, there is no verdict but inconclusive.
    Effects and margins in units of the metric, 0.01 = one point.
    """

    primary: str = PRIMARY
    guards: tuple[str, ...] = GUARDS
    min_effect: float = 0.01
    margin: float = 0.02
    margin_items: int = 5
    min_items: int = 30
    min_clusters: int = 20
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    geometry: GeometryLimits = field(default_factory=GeometryLimits)

    def __post_init__(self) -> None:
        if not 0 <= self.min_effect < 1 or not 0 < self.margin < 1 or not 0.5 < self.confidence < 1:
            raise ValueError("min_effect and margin must lie in [0, 1), confidence in (0.5, 1)")
        if min(self.min_items, self.min_clusters) < 2 or self.resamples < 100 or self.margin_items < 0:
            raise ValueError(
                "min_items and min_clusters must be at least 2, resamples at least 100, margin_items at least 0"
            )
        if not self.guards:
            raise ValueError("guards must name at least one metric")

    def margin_for(self, clusters: int) -> float:
        """The non-inferiority margin on a gate set of so many clusters."""
        return max(self.margin, min(MARGIN_CAP, self.margin_items / clusters))


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

    pass: the primary metric is better than the champion's by at least min_effect with a lower bound above 0, the
    lower bound of every guard, and of the primary against the base, excludes a loss of the margin or more, and the
    geometry holds. fail: the primary is worse than the champion's beyond doubt (its interval lies below 0), or a guard
    (or the primary against the base) is so and may have lost more than the margin, or the geometry collapsed. A guard
    that is surely a little worse, by less than the margin, passes; its reason says so. Everything else is inconclusive.
    `clusters` marks items that share a source; they are drawn together and count as one wherever numbers matter.

    Raises:
        VectorsRefused: scores of different lengths, a missing metric, or values that are not finite.
    """
    rules = settings or GateSettings()
    rival = champion or base
    items = _items(candidate, [rival, base], rules)
    drawn = items if clusters is None else len(np.unique(np.asarray(clusters)))
    short = _too_few(items, drawn, rules)
    reasons = list(short)
    guards = _guards(candidate, rules)
    metrics: dict[str, Any] = {
        "items": items,
        "clusters": drawn,
        "means": {c.name: c.means() for c in (candidate, rival, base)},
    }

    rivals = [rival] if rival is base else [rival, base]
    for other in rivals:
        compared = _compare(candidate, other, rules, clusters)
        metrics[f"vs_{other.name}"] = {name: asdict(interval) for name, interval in compared.items()}
        for name, interval in compared.items():
            if name not in (rules.primary, *guards):
                continue  # reported, not ruled on
            if name == rules.primary and other is rival:
                reasons.append(_superior(name, other.name, interval, rules))
            else:
                reasons.append(_not_inferior(name, other.name, interval, rules))
    broken_geometry, geometry, facts = geometry_reasons(candidate.generic, base.generic, rules.geometry)
    metrics["geometry"] = facts
    reasons.extend(geometry)

    worse = [r for r in reasons if r.code.endswith("_worse")]
    if broken_geometry or (worse and not short):
        outcome = Outcome.FAIL
    elif not all(r.ok for r in reasons):
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


def _too_few(items: int, clusters: int, rules: GateSettings) -> list[Reason]:
    found = []
    if items < rules.min_items:
        text = f"the gate set has {items} items; at least {rules.min_items} are needed for a verdict"
        found.append(Reason("too_few_items", text, {"items": items, "needed": rules.min_items}, ok=False))
    if clusters < rules.min_clusters:
        text = (
            f"the {items} items of the gate set are {clusters} independent clusters (near-duplicates and groups count "
            f"once); at least {rules.min_clusters} are needed for a verdict"
        )
        numbers: dict[str, float] = {"clusters": clusters, "items": items, "needed": rules.min_clusters}
        found.append(Reason("too_few_clusters", text, numbers, ok=False))
    return found


def _guards(candidate: Contender, rules: GateSettings) -> tuple[str, ...]:
    scored = tuple(name for name in rules.guards if name in candidate.scores)
    return scored or (FALLBACK_GUARD,)


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


def _superior(metric: str, other: str, found: Interval, rules: GateSettings) -> Reason:
    numbers = {**_numbers(found), "min_effect": rules.min_effect}
    told = f"{metric} against {other}: {_points(found)}"
    if found.high < 0:
        return Reason(f"{metric}_worse", f"{told}; worse beyond doubt", numbers, ok=False)
    if found.low > 0 and found.mean >= rules.min_effect:
        return Reason(f"{metric}_better", f"{told}; better, by at least {_point(rules.min_effect)}", numbers, ok=True)
    if found.low > 0:
        text = f"{told}; better, but by less than {_point(rules.min_effect)}"
        return Reason(f"{metric}_too_small", text, numbers, ok=False)
    return Reason(
        f"{metric}_unclear", f"{told}; the interval does not exclude 0 with {_size(found)}", numbers, ok=False
    )


def _not_inferior(metric: str, other: str, found: Interval, rules: GateSettings) -> Reason:
    margin = rules.margin_for(found.clusters)
    numbers = {**_numbers(found), "margin": margin}
    told = f"{metric} against {other}: {_points(found)}"
    if found.low > -margin:
        surely = "a little worse, but " if found.high < 0 else ""
        text = f"{told}; {surely}a loss above {_point(margin)} is excluded"
        return Reason(f"{metric}_kept", text, numbers, ok=True)
    if found.high < 0:
        return Reason(f"{metric}_worse", f"{told}; worse beyond doubt", numbers, ok=False)
    text = f"{told}; a loss above {_point(margin)} cannot be excluded with {_size(found)}"
    return Reason(f"{metric}_unclear", text, numbers, ok=False)


def _numbers(found: Interval) -> dict[str, float]:
    return {
        "mean": found.mean, "low": found.low, "high": found.high, "items": found.items, "clusters": found.clusters,
    }  # fmt: skip


def _size(found: Interval) -> str:
    grouped = f" in {found.clusters} clusters" if found.clusters < found.items else ""
    return f"{found.items} items{grouped}"


def _points(found: Interval) -> str:
    bounds = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return f"{100 * found.mean:+.2f} points ({found.confidence:.0%} interval {bounds})"


def _point(value: float) -> str:
    return f"{100 * value:.1f} points"
