"""The gate's tests, ruled on together: what each found, put into a reason a reader can weigh."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from monitoring.quality import Scores
from monitoring.reasons import Reason
from monitoring.significance import Claim, Interval, Resampled, holm
from monitoring.subgroups import surely_lost


@dataclass(frozen=True, eq=False)
class Comparison:
    """One comparison of the candidate with another model.

    Attributes:
        metric, other: What is compared, and with whom.
        found: The difference, candidate less other.
        shown: Its interval, as this test alone would have it.
        level: One-sided level at which this test alone would be read.
        margin: Of a test of non-inferiority: the loss that must be excluded. None: a test of superiority.
        least: Of a test of superiority: the least difference that is worth a promotion.
    """

    metric: str
    other: str
    found: Resampled
    shown: Interval
    level: float
    margin: float | None = None
    least: float = 0.0


def rule(tests: Sequence[Comparison]) -> list[Reason]:
    """One reason for each test, in their order; those that hold do so together, by Holm's procedure over them all."""
    held = holm({n: Claim(t.found.p_above(-(t.margin or 0.0)), t.level) for n, t in enumerate(tests)})
    return [
        _superior(test, held[n], len(tests)) if test.margin is None else _not_inferior(test, held[n], len(tests))
        for n, test in enumerate(tests)
    ]


def group_reasons(
    differences: Mapping[str, Scores],
    groups: Mapping[str, Sequence[str]],
    clusters: ArrayLike | None,
    *,
    metric: str,
    margin: float,
    level: float,
    min_items: int,
) -> list[Reason]:
    """Subgroups that surely lost more than the margin, against each model by name, or one reason that none has.

    The level is shared among the models. Small groups cannot prove that they lost nothing, so it is a loss that must
    be proven here, and not its absence.
    """
    reasons, tested = [], 0
    for other, difference in differences.items():
        lost, tested = surely_lost(
            difference, groups, clusters, margin=margin, level=level / len(differences), min_items=min_items
        )
        for group in lost:
            text = (
                f"{metric} of a group of {group.difference.items} items by {group.column}, against {other}: "
                f"{_points(group.difference)}; lost more than {_point(margin)} beyond doubt"
            )
            reasons.append(Reason("group_worse", text, {**_numbers(group.difference), "margin": margin}, ok=False))
    if reasons:
        return reasons
    text = (
        f"none of {tested} subgroups lost more than {_point(margin)} of {metric} beyond doubt"
        if tested
        else f"no subgroup has the {min_items} items it needs to be judged"
    )
    return [Reason("groups_kept", text, {"groups": tested, "margin": margin}, ok=True)]


def _superior(test: Comparison, held: bool, tests: int) -> Reason:
    found, metric = test.shown, test.metric
    numbers = {**_numbers(found), "min_effect": test.least, "p": test.found.p_above(0.0)}
    told = f"{metric} against {test.other}: {_points(found)}"
    if found.high < 0:
        return Reason(f"{metric}_worse", f"{told}; worse beyond doubt", numbers, ok=False)
    if held and found.mean >= test.least:
        return Reason(f"{metric}_better", f"{told}; better, by at least {_point(test.least)}", numbers, ok=True)
    if held:
        text = f"{told}; better, but by less than {_point(test.least)}"
        return Reason(f"{metric}_too_small", text, numbers, ok=False)
    doubt = (
        f"better on its own, but not as one of {tests} tests that must hold together"
        if found.low > 0
        else f"the interval does not exclude 0 with {_size(found)}"
    )
    return Reason(f"{metric}_unclear", f"{told}; {doubt}", numbers, ok=False)


def _not_inferior(test: Comparison, held: bool, tests: int) -> Reason:
    found, metric, margin = test.shown, test.metric, test.margin or 0.0
    numbers = {**_numbers(found), "margin": margin, "p": test.found.p_above(-margin)}
    told = f"{metric} against {test.other}: {_points(found)}"
    if held:
        surely = "a little worse, but " if found.high < 0 else ""
        text = f"{told}; {surely}a loss above {_point(margin)} is excluded"
        return Reason(f"{metric}_kept", text, numbers, ok=True)
    if found.high < 0 and found.low <= -margin:
        return Reason(f"{metric}_worse", f"{told}; worse beyond doubt", numbers, ok=False)
    doubt = (
        f"a loss above {_point(margin)} is excluded on its own, but not as one of {tests} tests that must hold together"
        if found.low > -margin
        else f"a loss above {_point(margin)} cannot be excluded with {_size(found)}"
    )
    return Reason(f"{metric}_unclear", f"{told}; {doubt}", numbers, ok=False)


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
