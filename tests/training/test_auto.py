"""The rules of the method "auto": when a LoRA is tried after the head, and when it is kept."""

from typing import Any

import numpy as np
import pytest

from monitoring.recipe import LORA_BUDGET_S, Recipe
from registry.row import RowKind
from training import auto
from training.shares import SHARES, largest_good

GOOD: dict[str, Any] = {
    "rows": 700,
    "items": 200,
    "head_score": 0.85,
    "least_s": 100.0,
    "lora_budget_s": 300.0,
    "left_s": 590.0,
}


def test_a_lora_is_tried_where_it_is_likely_to_pay() -> None:
    ruling = auto.worth_trying(**GOOD)
    assert ruling.yes
    assert ruling.figures["budget_s"] == 300.0
    assert "text" in ruling.to_json()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_budget_s": 0}, "lora_budget_s is 0"),
        ({"rows": 199}, "199 rows to fit on are fewer than the 200"),
        ({"items": 49}, "49 selection rows are too few"),
        ({"head_score": 0.98}, "score of 0.9800 leaves nothing to win"),
        ({"least_s": 301.0}, "it would take 301 s at least"),
        ({"left_s": 80.0}, "allow 80 s"),
    ],
)
def test_each_rule_says_why_a_lora_is_not_tried(change: dict[str, Any], said: str) -> None:
    ruling = auto.worth_trying(**{**GOOD, **change})
    assert not ruling.yes
    assert said in ruling.text


def test_by_default_labels_have_no_lora_tried_and_pairs_have_one_within_its_budget() -> None:
    labels, pairs = (Recipe().resolved(kind).lora_budget_s for kind in (RowKind.LABELLED, RowKind.PAIRS))
    assert labels == 0.0
    assert pairs == LORA_BUDGET_S
    assert Recipe(lora_budget_s=30.0).resolved(RowKind.LABELLED).lora_budget_s == 30.0
    assert not auto.worth_trying(**{**GOOD, "lora_budget_s": labels}).yes
    assert auto.worth_trying(**{**GOOD, "lora_budget_s": pairs}).yes


def test_a_lora_is_kept_only_where_it_is_clearly_better() -> None:
    def kept(difference: float, error: float) -> bool:
        scores = {"items": 300, "head": 0.8, "lora": 0.8 + difference}
        return auto.keeps_lora({**scores, "difference": difference, "standard_error": error}).yes

    assert kept(0.02, 0.01)
    assert not kept(0.02, 0.03)
    assert not kept(0.0029, 0.0001)
    assert not kept(0.01, float("inf"))
    assert not kept(float("nan"), 0.001)


def test_the_largest_share_that_is_as_good_as_the_best_is_chosen() -> None:
    rng = np.random.default_rng(0)
    best = (rng.random(400) < 0.9).astype(float)
    nearly, worse = best.copy(), best.copy()
    nearly[np.flatnonzero(best)[:2]] = 0
    nearly[np.flatnonzero(best == 0)[0]] = 1
    worse[:60] = 0
    assert largest_good({0.5: best, 0.75: nearly, 1.0: worse}) == 0.75
    assert largest_good(dict.fromkeys(SHARES, best)) == 1.0
    assert largest_good({1.0: worse}) == 1.0
