"""The rules of a rollout: what passes, what is stopped at once, what is waited for, and how often they are wrong."""

import json
from typing import Any

import numpy as np
import pytest

from monitoring.errors import RulesRefused
from monitoring.recipe import Recipe
from monitoring.rollout_rules import Action, Rules, judge
from monitoring.tally import UNIT, Tally


def seen(n: int, *, rows: float = 0.3, votes: float = 0.05, failures: int = 0, slow: int = 0, **more: int) -> Tally:
    counted = {
        "rows_n": n,
        "rows": round(n * rows * UNIT),
        "votes_n": n,
        "votes": round(n * votes * UNIT),
        "attempts": n,
        "timed": n,
    } | more
    return Tally(observations=n, failures=failures, slow=slow, **counted)


def test_enough_agreement_passes_and_too_little_evidence_waits() -> None:
    rules = Rules()
    assert judge(rules, seen(2000)).action is Action.PASS
    early = judge(rules, seen(499))
    assert early.action is Action.WAIT
    assert early.missing == ("1 more compared requests",)
    close = judge(rules, seen(600, rows=0.48))
    assert close.action is Action.WAIT
    assert "disagreement of the nearest items may be up to" in close.missing[0]
    nothing = judge(rules, Tally())
    assert nothing.action is Action.WAIT
    assert nothing.missing == ("500 more compared requests",)


@pytest.mark.parametrize(
    ("tally", "why"),
    [
        (seen(60, rows=0.95), "disagreement of the nearest items"),
        (seen(60, votes=0.7), "disagreement of the commonest label"),
        (seen(10, failures=6), "share of requests that failed"),
        (seen(60, slow=58), "share of slow requests"),
        (Tally(observations=60, labels_n=60, labels=50 * UNIT), "nearest items' labels"),
    ],
)
def test_a_rule_that_is_broken_beyond_doubt_stops_at_once(tally: Tally, why: str) -> None:
    found = judge(Rules(), tally)
    assert found.action is Action.STOP
    assert len(found.broken) == 1
    assert why in found.broken[0]


def test_a_few_failures_or_slow_requests_are_no_proof() -> None:
    assert judge(Rules(), seen(20, failures=1)).action is Action.WAIT
    held_up = judge(Rules(), seen(1000, failures=12))
    assert held_up.action is Action.WAIT
    assert "0.012" in held_up.missing[0]
    assert judge(Rules(max_error_rate=0), seen(1000, failures=1)).action is Action.STOP
    assert judge(Rules(), seen(2000, slow=600)).action is Action.PASS  # the median request is not slow


def test_without_neighbours_in_common_nothing_passes() -> None:
    found = judge(Rules(), Tally(observations=5000, attempts=5000, timed=5000))
    assert found.action is Action.WAIT
    assert "neither rows nor labels in common" in found.missing[0]


def test_labels_are_judged_where_rows_cannot_be_compared() -> None:
    by_label = Tally(observations=3000, labels_n=3000, labels=300 * UNIT, votes_n=3000, votes=150 * UNIT)
    found = judge(Rules(), by_label)
    assert found.action is Action.PASS
    assert found.limits["labels"] == 0.25
    assert judge(Rules(max_disagreement=0.05), by_label).action is Action.STOP


def test_the_time_ends_what_has_no_answer_and_nothing_that_passes() -> None:
    rules = Rules(duration_s=60)
    late = judge(rules, seen(100), elapsed_s=61)
    assert late.action is Action.STOP
    assert late.broken[0].startswith("the time is over: 400 more compared requests")
    assert judge(rules, seen(2000), elapsed_s=61).action is Action.PASS


def test_a_canary_goes_through_its_stages_and_each_needs_its_evidence() -> None:
    rules = Rules(mode="canary", stages=(0.05, 0.25, 0.5), min_observations=1000)
    assert [rules.share(stage) for stage in range(4)] == [0.05, 0.25, 0.5, 0.5]
    assert judge(rules, seen(1000), stage=0).action is Action.ADVANCE
    assert judge(rules, seen(1000), stage=1).action is Action.WAIT
    assert judge(rules, seen(2000), stage=1).action is Action.ADVANCE
    assert judge(rules, seen(3000), stage=2).action is Action.PASS
    assert Rules().share(0) == 0


def test_watching_all_the_time_stops_few_that_keep_the_rules_and_passes_few_that_break_them() -> None:
    """Traffic exactly on a limit, judged after every ten requests: both errors together stay below 1 - confidence."""
    rng = np.random.default_rng(11)
    wrong = {Action.STOP: 0, Action.PASS: 0}
    runs = 150
    for _ in range(runs):
        rules = Rules(min_observations=50, confidence=0.9, max_vote_disagreement=1.0)
        rows = rng.beta(2, 2, 600).cumsum()  # of mean 0.5, the default limit
        for n in range(10, 601, 10):
            tally = Tally(observations=n, rows_n=n, rows=round(rows[n - 1] * UNIT), attempts=n, timed=n)
            action = judge(rules, tally).action
            if action is not Action.WAIT:
                wrong[action] += 1
                break
    assert wrong[Action.STOP] <= runs * 0.1
    assert wrong[Action.PASS] <= runs * 0.1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "dark"}, 'mode must be "shadow" or "canary"'),
        ({"mode": 1}, "mode must be a string"),
        ({"share": 0.2}, 'share goes with the mode "canary"'),
        ({"mode": "canary", "share": 1}, "stages must be growing shares"),
        ({"mode": "canary", "stages": [0.5, 0.2]}, "stages must be growing shares"),
        ({"mode": "canary", "stages": []}, "stages must be growing shares"),
        ({"mode": "canary", "stages": 0.5}, "stages must be a list"),
        ({"mode": "canary", "share": 0.1, "stages": [0.1]}, "cannot both be given"),
        ({"min_observations": 0}, "min_observations must lie between 1 and 10000000"),
        ({"min_observations": 2.5}, "min_observations must be a whole number"),
        ({"max_error_rate": float("nan")}, "max_error_rate must lie"),
        ({"max_error_rate": True}, "max_error_rate must be a number"),
        ({"duration_s": "long"}, "duration_s must be a number"),
        ({"latency": 2}, "unknown field latency"),
        ({"on_success": "hope"}, "on_success must be"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RulesRefused, match=said):
        Rules.from_mapping(given)


def test_rules_survive_their_dictionary_and_a_recipe_may_hold_them() -> None:
    rules = Rules.from_mapping({"mode": "canary", "share": 0.2, "unit": "header", "max_disagreement": None})
    assert rules.stages == (0.2,)
    assert Rules.from_mapping(json.loads(json.dumps(rules.to_dict()))) == rules
    assert Recipe.from_mapping({"rollout": {}}).to_dict()["rollout"] == {}
    assert Recipe().to_dict()["rollout"] is None
    with pytest.raises(Exception, match="recipe: rollout: min_observations must lie"):
        Recipe.from_mapping({"rollout": {"min_observations": 0}})
