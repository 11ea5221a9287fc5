"""On which rules a candidate that is served in shadow or to a share of the traffic is promoted or stopped."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from monitoring.anytime import Bound, bound
from monitoring.errors import RulesRefused
from monitoring.limits import shown
from monitoring.tally import UNIT, Tally

ROWS_LIMIT: Final = 0.5
LABELS_LIMIT: Final = 0.25
# Disagreement of neighbours, neighbours' labels, votes; failures; slow requests: each has its share of the error.
_BOUNDS: Final = 5
# A request may be slow now and then; it is the median request that must not be.
_MEDIAN: Final = 0.5
_MODES: Final = ("shadow", "canary")
_UNITS: Final = ("key", "user", "header")
_ENDS: Final = ("promote", "hold")
_SHARES: Final = (0.1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a rollout does and when it ends. The defaults suit a refit of the live version on the same domain.

    Attributes:
        mode: "shadow": the candidate computes what the live version has answered, and nobody sees it. "canary": it
            answers a share of the callers, and what the one version answers the other computes afterwards.
        stages: Of a canary: the share of units in each stage, growing, each in (0, 1).
        unit: Of a canary: what is kept together. "key": all requests of an API key. "user": of a `user` field.
            "header": of a header `x-driftline-unit`. Requests without one stay with the live version.
        sample: Share of the requests that are compared, in (0, 1].
        min_observations: Compared requests that each stage needs.
        max_disagreement: Most mean disagreement of the ten nearest items: by row, or by label where the two versions
            were fitted to different data. None: 0.5 by row, 0.25 by label.
        max_vote_disagreement: Most mean disagreement of the commonest label among them, where there are labels.
        max_error_rate: Most requests that the candidate may fail to compute.
        max_latency_ratio: A request is slow when it takes more than this many times as long with the candidate; half
            of them may be.
        duration_s: Seconds after which a rollout without an answer is stopped.
        confidence: With which all bounds together hold, however often they are looked at.
        on_success: "promote": the candidate goes live by itself where its gate verdict is `pass`; "hold": a person
            does that.
    """

    mode: str = "shadow"
    stages: tuple[float, ...] = _SHARES
    unit: str = "key"
    sample: float = 1.0
    min_observations: int = 500
    max_disagreement: float | None = None
    max_vote_disagreement: float = 0.2
    max_error_rate: float = 0.01
    max_latency_ratio: float = 2.0
    duration_s: float = 7 * 86_400.0
    confidence: float = 0.95
    on_success: str = "promote"

    def __post_init__(self) -> None:
        for name, known in (("mode", _MODES), ("unit", _UNITS), ("on_success", _ENDS)):
            quoted = [f'"{choice}"' for choice in known]
            _require(getattr(self, name) in known, name, f"must be {', '.join(quoted[:-1])} or {quoted[-1]}")
        growing = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        inside = all(0 < share < 1 for share in self.stages)
        _require(1 <= len(self.stages) <= 20 and growing and inside, "stages", "must be growing shares in (0, 1)")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            _require(value is None or low <= value <= high, name, f"must lie between {low:.10g} and {high:.10g}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Rules":
        """Rules from plain values; fields left out keep their defaults. `share` is short for one stage.

        Raises:
            RulesRefused: A field is unknown, of the wrong type, or out of range; the message names it.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = shown([name for name in mapping if name not in known | {"share"}])
        if unknown:
            raise RulesRefused(f"rollout: unknown field {unknown}; known are share, {', '.join(sorted(known))}")
        values = dict(mapping)
        if "share" in values:
            _require("stages" not in values, "share", "and stages cannot both be given")
            values["stages"] = [values.pop("share")]
        rules = cls(**{name: _typed(name, value) for name, value in values.items()})
        for name in ("share", "stages"):
            idle = name == "stages" and rules.stages == _SHARES  # as `to_dict` gives it
            _require(rules.mode == "canary" or name not in mapping or idle, name, 'goes with the mode "canary"')
        return rules

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values."""
        return dataclasses.asdict(self) | {"stages": list(self.stages)}

    def share(self, stage: int) -> float:
        """Share of the units that the candidate answers in a stage, 0 in shadow."""
        return self.stages[min(stage, len(self.stages) - 1)] if self.mode == "canary" else 0.0

    @property
    def last_stage(self) -> int:
        """Number of the stage after which there is only promotion; a shadow has one."""
        return len(self.stages) - 1 if self.mode == "canary" else 0


class Action(StrEnum):
    """What the rules say is to be done now."""

    WAIT = "wait"
    ADVANCE = "advance"
    """To the next stage of a canary."""
    PASS = "pass"
    """Everything that was asked for is shown."""
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of a tally: the action, why (of a stop) or what is missing, and the bounds by name."""

    action: Action
    broken: tuple[str, ...]
    missing: tuple[str, ...]
    bounds: dict[str, Bound]
    limits: dict[str, float]


def judge(rules: Rules, tally: Tally, *, stage: int = 0, elapsed_s: float = 0.0) -> Judgement:
    """What is to be done after what was measured so far.

    A rule is broken when the lower bound of what it limits is above the limit, and kept when the upper bound is below
    it; failures are kept while those seen are no more than the limit. The bounds hold at all times together with
    probability `confidence` (see `monitoring.anytime`), so that looking often stops no candidate that keeps the rules
    and passes none that breaks them, but with probability 1 - confidence.
    """
    level = (1 - rules.confidence) / _BOUNDS
    limits, totals = _limits(rules, tally), _totals(tally)
    bounds = {name: bound(total, n, level) for name, (total, n) in totals.items()}
    broken = tuple(
        f"{_WORDS[name]}: {bounds[name].mean:.3f}, surely above {bounds[name].lower:.3f}; the limit is {limit:g}"
        for name, limit in limits.items()
        if bounds[name].lower > limit
    )
    if broken:
        return Judgement(Action.STOP, broken, (), bounds, limits)
    missing = [*_missing(rules, tally, stage, bounds, limits)]
    if not missing:
        action = Action.PASS if stage >= rules.last_stage else Action.ADVANCE
        return Judgement(action, (), (), bounds, limits)
    if elapsed_s > rules.duration_s:
        late = ("the time is over: " + "; ".join(missing),)
        return Judgement(Action.STOP, late, tuple(missing), bounds, limits)
    return Judgement(Action.WAIT, (), tuple(missing), bounds, limits)


_WORDS: Final = {
    "rows": "disagreement of the nearest items",
    "labels": "disagreement of the nearest items' labels",
    "votes": "disagreement of the commonest label",
    "errors": "share of requests that failed",
    "slow": "share of slow requests",
}


def _totals(tally: Tally) -> dict[str, tuple[float, int]]:
    """What each bound is about: a sum of values in [0, 1] and their number."""
    return {
        "rows": (tally.rows / UNIT, tally.rows_n),
        "labels": (tally.labels / UNIT, tally.labels_n),
        "votes": (tally.votes / UNIT, tally.votes_n),
        "errors": (float(tally.failures), tally.attempts),
        "slow": (float(tally.slow), tally.timed),
    }


def _limits(rules: Rules, tally: Tally) -> dict[str, float]:
    """The limit of everything that is limited: neighbours by row where they can be compared so, else by label."""
    kind, default = ("rows", ROWS_LIMIT) if tally.rows_n or not tally.labels_n else ("labels", LABELS_LIMIT)
    near = default if rules.max_disagreement is None else rules.max_disagreement
    votes = {"votes": rules.max_vote_disagreement} if tally.votes_n else {}
    return {kind: near, **votes, "errors": rules.max_error_rate, "slow": _MEDIAN}


def _missing(
    rules: Rules, tally: Tally, stage: int, bounds: Mapping[str, Bound], limits: Mapping[str, float]
) -> list[str]:
    wanted = rules.min_observations * (stage + 1)
    missing = []
    if tally.observations < wanted:
        missing.append(f"{wanted - tally.observations} more compared requests")
    if tally.observations and not tally.rows_n and not tally.labels_n:
        missing.append("the references of the two versions have neither rows nor labels in common")
    for name, limit in limits.items():
        found = bounds[name]
        if name == "errors":
            if found.mean > limit:
                missing.append(f"{_WORDS[name]} is {found.mean:.3f}, the limit {limit:g}")
        elif found.n and found.upper >= limit:
            missing.append(f"{_WORDS[name]} may be up to {found.upper:.3f}, the limit is {limit:g}")
    return missing


_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "sample": (0.001, 1),
    "min_observations": (1, 10_000_000),
    "max_disagreement": (0.001, 1),
    "max_vote_disagreement": (0.001, 1),
    "max_error_rate": (0, 1),
    "max_latency_ratio": (1, 1000),
    "duration_s": (1, 365 * 86_400),
    "confidence": (0.5, 0.9999),
}


def _typed(name: str, value: object) -> Any:
    """The value, if it has the field's type: bool is no number here."""
    if name in ("mode", "unit", "on_success"):
        _require(isinstance(value, str), name, "must be a string")
        return value
    if name == "stages":
        listed = isinstance(value, list | tuple) and all(_is_number(share) for share in value)
        _require(listed, name, "must be a list of shares in (0, 1)")
        return tuple(float(share) for share in value)  # type: ignore[attr-defined]
    if name == "max_disagreement" and value is None:
        return None
    if name == "min_observations":
        _require(type(value) is int, name, "must be a whole number")
        return value
    _require(_is_number(value), name, "must be a number")
    return float(value)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(right: bool, name: str, rule: str) -> None:
    if not right:
        raise RulesRefused(f"rollout: {name} {rule}")
