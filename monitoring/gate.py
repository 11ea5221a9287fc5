"""The gate: may this candidate replace the champion? Judged item by item on rows neither was fitted on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.collapse import GeometryLimits, geometry_reasons
from monitoring.errors import VectorsRefused
from monitoring.leakage import Leakage
from monitoring.quality import Scores
from monitoring.reasons import Reason
from monitoring.rulings import Comparison, group_reasons, rule
from monitoring.significance import Interval, Resampled, resample_all, spent_level

PRIMARY: Final = "ndcg_at_10"
GUARDS: Final = ("knn_accuracy",)
FALLBACK_GUARD: Final = "nn_accuracy"
ROBUSTNESS: Final = "robustness"
"""The metric of a model's scores on perturbed texts (`robustness.Robustness.items`)."""
CALIBRATION: Final = "calibration"
"""The metric of how well probabilities hold (`calibration.Scaled.items`)."""
MOST_RESAMPLES: Final = 100_000
"""A gate set used often is judged at small levels, which need more resamples; from where these are too few it is spent.
With a champion and every guard that is after thirteen verdicts, without one after nineteen."""
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
    robustness_margin, calibration_margin: as margin, for scores of perturbed texts and for 1 - Brier / 2. group_margin:
    how much of the primary a subgroup of at least group_min_items items may surely lose.
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
    robustness_margin: float = 0.02
    calibration_margin: float = 0.02
    group_margin: float = 0.10
    group_min_items: int = 30
    geometry: GeometryLimits = field(default_factory=GeometryLimits)

    def __post_init__(self) -> None:
        if not 0 <= self.min_effect < 1 or not 0 < self.margin < 1 or not 0.5 < self.confidence < 1:
            raise ValueError("min_effect and margin must lie in [0, 1), confidence in (0.5, 1)")
        if not all(0 < margin < 1 for margin in (self.robustness_margin, self.calibration_margin, self.group_margin)):
            raise ValueError("robustness_margin, calibration_margin and group_margin must lie in (0, 1)")
        if (
            min(self.min_items, self.min_clusters, self.group_min_items) < 2
            or self.resamples < 100
            or self.margin_items < 0
        ):
            raise ValueError(
                "min_items, min_clusters and group_min_items must be at least 2, resamples at least 100, "
                "margin_items at least 0"
            )
        if not self.guards:
            raise ValueError("guards must name at least one metric")

    def margin_for(self, clusters: int, metric: str | None = None) -> float:
        """The non-inferiority margin of a metric on a gate set of so many clusters."""
        own = {ROBUSTNESS: self.robustness_margin, CALIBRATION: self.calibration_margin}
        margin = self.margin if metric is None else own.get(metric, self.margin)
        return max(margin, min(MARGIN_CAP, self.margin_items / clusters))


@dataclass(frozen=True, slots=True)
class Contender:
    """One model's results: per-item scores by metric (m,) in one item order; vectors (n, d) of generic rows.

    Scores named `robustness` and `calibration` are guarded as well, where every contender has them.
    """

    name: str
    scores: Mapping[str, Scores]
    generic: NDArray[np.float32] | None = None

    def means(self) -> dict[str, float]:
        return {metric: float(np.mean(values)) for metric, values in self.scores.items()}


@dataclass(frozen=True, eq=False)
class GuardSet:
    """A guard on other items than the gate's, such as judged similarities of general texts.

    Attributes:
        name: Of the set and its metric, such as `stsb_spearman`.
        differences: By the name of each rival, champion and base: candidate less rival (`significance.resample` or
            `rank_correlation_difference`).
        margin: How much the candidate may lose.
    """

    name: str
    differences: Mapping[str, Resampled]
    margin: float


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
    groups: Mapping[str, Sequence[str]] | None = None,
    guard_sets: Sequence[GuardSet] = (),
    leakage: Leakage | None = None,
    use: int | None = None,
) -> Verdict:
    """Compare a candidate with the champion (with the base when there is none) and with the base, on the same items.

    pass: the primary metric is better than the champion's by at least min_effect with a lower bound above 0, the
    lower bound of every guard, and of the primary against the base, excludes a loss of the margin or more, and the
    geometry holds. fail: the primary is worse than the champion's beyond doubt (its interval lies below 0), or a guard
    (or the primary against the base) is so and may have lost more than the margin, or a subgroup surely lost more than
    its margin, or the geometry collapsed, or an item was fitted on. A guard that is surely a little worse, by less
    than the margin, passes; its reason says so. Everything else is inconclusive.

    A pass asks that all tests, of superiority and of non-inferiority, hold together by Holm's procedure; intervals are
    shown as each test alone would have them. `clusters` marks items that share a source; they are drawn together and
    count as one wherever numbers matter. `groups` marks the items by properties whose groups are judged. `leakage` is
    what fitted and judged rows have in common. `use` counts the verdicts on this gate set, this one included: the
    n-th is given a smaller level (`significance.spent_level`) and, so that it can be read, more resamples; None leaves
    both as they are.

    Raises:
        VectorsRefused: scores of different lengths, a missing metric, or values that are not finite.
    """
    rules = settings or GateSettings()
    rival = champion or base
    rivals = [rival] if rival is base else [rival, base]
    items = _items(candidate, [rival, base], rules)
    drawn = items if clusters is None else len(np.unique(np.asarray(clusters)))
    short = _too_few(items, drawn, rules)
    reasons = list(short)
    guards = _guards(candidate, rules)
    level = 1 - rules.confidence if use is None else spent_level(1 - rules.confidence, use)
    metrics: dict[str, Any] = {
        "items": items,
        "clusters": drawn,
        "means": {c.name: c.means() for c in (candidate, rival, base)},
    }

    tests: list[Comparison] = []
    ruled = len(rivals) * (1 + len(guards) + len(guard_sets))
    resamples = rules.resamples if use is None else _resamples(rules.resamples, level, ruled)
    differences = _compare(candidate, rivals, rules, clusters, resamples)
    for other in rivals:
        compared = differences[other.name]
        shown = {name: _interval(found, name == rules.primary, level) for name, found in compared.items()}
        metrics[f"vs_{other.name}"] = {name: asdict(interval) for name, interval in shown.items()}
        for name, found in compared.items():
            if name not in (rules.primary, *guards):
                continue  # reported, not ruled on
            if name == rules.primary and other is rival:
                tests.append(Comparison(name, other.name, found, shown[name], level / 2, least=rules.min_effect))
            else:
                margin = rules.margin_for(found.clusters, name)
                # Against the base the primary's bound is the two-sided one that is shown.
                tests.append(
                    Comparison(
                        name, other.name, found, shown[name], level / (1 + (name == rules.primary)), margin=margin
                    )
                )
        tests.extend(_guarded(guard, other, level) for guard in guard_sets)
    reasons.extend(rule(tests))
    metrics["multiplicity"] = {"procedure": "holm", "tests": len(tests), "level": level}
    if use is not None:
        reasons.append(_used(use, level, len(tests), resamples, rules))
    if groups:
        reasons.extend(group_reasons(
            {other.name: _difference(candidate, other, rules.primary) for other in rivals},
            groups, clusters, margin=rules.group_margin, level=level, min_items=rules.group_min_items,
            metric=rules.primary,
        ))  # fmt: skip
    leaks = [] if leakage is None else [leakage.reason()]
    reasons.extend(leaks)
    broken_geometry, geometry, facts = geometry_reasons(candidate.generic, base.generic, rules.geometry)
    metrics["geometry"] = facts
    reasons.extend(geometry)

    worse = [r for r in reasons if r.code.endswith("_worse")]
    if broken_geometry or not all(r.ok for r in leaks) or (worse and not short):
        outcome = Outcome.FAIL
    elif not all(r.ok for r in reasons):
        outcome = Outcome.INCONCLUSIVE
    else:
        outcome = Outcome.PASS
    return Verdict(outcome, tuple(reasons), metrics)


def _items(candidate: Contender, others: list[Contender], rules: GateSettings) -> int:
    everyone = (candidate, *others)
    lengths = {len(values) for c in everyone for values in c.scores.values()}
    if len(lengths) != 1:
        raise VectorsRefused("every metric of every contender must be scored on the same items")
    watched = [name for name in (ROBUSTNESS, CALIBRATION) if any(name in c.scores for c in everyone)]
    for contender in everyone:
        missing = [name for name in (rules.primary, *watched) if name not in contender.scores]
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
    watched = tuple(name for name in (ROBUSTNESS, CALIBRATION) if name in candidate.scores)
    return (*(scored or (FALLBACK_GUARD,)), *watched)


def _compare(
    candidate: Contender, others: Sequence[Contender], rules: GateSettings, clusters: ArrayLike | None, resamples: int
) -> dict[str, dict[str, Resampled]]:
    """By rival: the difference of every metric both have, primary first; all on the same draws."""
    columns = {
        (other.name, name): _difference(candidate, other, name)
        for other in others
        for name in (rules.primary, *(n for n in candidate.scores if n in other.scores and n != rules.primary))
    }
    found = resample_all(columns, clusters, seed=rules.seed, n=resamples)
    compared: dict[str, dict[str, Resampled]] = {other.name: {} for other in others}
    for (other, name), drawn in found.items():
        compared[other][name] = drawn
    return compared


def _difference(candidate: Contender, other: Contender, metric: str) -> Scores:
    return np.asarray(candidate.scores[metric], np.float64) - np.asarray(other.scores[metric], np.float64)


def _interval(found: Resampled, two_sided: bool, level: float) -> Interval:
    """The primary's interval is two-sided; a guard's lower bound alone decides, so it has one-sided confidence.

    The latter is the usual form of a non-inferiority test.
    """
    return found.interval(1 - level if two_sided else 1 - 2 * level)


def _guarded(guard: GuardSet, other: Contender, level: float) -> Comparison:
    found = guard.differences.get(other.name)
    if found is None or not np.isfinite(found.draws).all():
        raise VectorsRefused(f"guard set {guard.name} has no finite difference to {other.name}")
    return Comparison(guard.name, other.name, found, _interval(found, False, level), level, margin=guard.margin)


def _resamples(asked: int, level: float, tests: int) -> int:
    """As many as asked for, or as it takes to see a p-value a tenth of the smallest that Holm may ask for."""
    return max(asked, min(MOST_RESAMPLES, ceil(10 * 2 * tests / level)))


def _used(use: int, level: float, tests: int, resamples: int, rules: GateSettings) -> Reason:
    """Says what is left of the level; a level below what the resamples can show is none."""
    numbers: dict[str, float] = {"use": use, "level": level, "resamples": resamples}
    if level / 2 / tests * resamples < 1:
        text = (
            f"the gate set is spent: this is verdict {use} on it, which leaves no level to pass at; add rows to the "
            "dataset until at least half of those judged are new, or judge on another dataset (driftline gate)"
        )
        return Reason("gate_set_spent", text, numbers, ok=False)
    text = f"verdict {use} on this gate set, at level {level:.2g} in place of {1 - rules.confidence:.2g}"
    return Reason("gate_set_use", text, numbers, ok=True)
