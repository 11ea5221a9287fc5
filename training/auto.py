"""The method "auto": whether a LoRA is worth fitting after the head, and which of the two is kept. Pure rules.

A head costs seconds, and its base vectors serve an index that is re-projected instead of encoded anew; so a LoRA has to
be likely to pay before it is tried, and clearly better before it is kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MIN_ROWS: Final = 200
"""Fitted rows below which a LoRA is not tried: it learns the rows rather than the task."""
MIN_ITEMS: Final = 50
"""Selection rows below which the two cannot be told apart."""
MIN_WRONG: Final = 5.0
"""Selection items that the head must still get wrong: of fewer, no difference is more than its standard error."""
MIN_GAIN: Final = 0.003
"""By how much a LoRA's selection score must be better, besides the standard error."""
PASSES: Final = 3
"""A step runs its texts forward and back, which is never less work than three times forward."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """Yes or no, in words and figures that go into the job and the manifest."""

    yes: bool
    text: str
    figures: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values: the figures, and `text`."""
        return {"text": self.text, **self.figures}


def least_seconds(steps: int, texts_a_step: int, scored_texts: int, scores: int, seconds_a_text: float) -> float:
    """A lower bound of a LoRA fit's time, from what the serving runtime took to encode one text."""
    return (PASSES * steps * texts_a_step + scores * scored_texts) * seconds_a_text


def worth_trying(
    *, rows: int, items: int, head_score: float, least_s: float, lora_budget_s: float, left_s: float
) -> Ruling:
    """Whether a LoRA is fitted after the head.

    Args:
        rows, items: Rows of the fit and of the selection.
        head_score: The head's selection score, in [0, 1].
        least_s: Lower bound of the LoRA fit's time.
        lora_budget_s: What the recipe allows a LoRA to take.
        left_s: What is left of the fit's time budget.
    """
    figures = {
        "rows": rows,
        "items": items,
        "head": round(head_score, 5),
        "least_s": round(least_s, 1),
        "budget_s": round(min(lora_budget_s, left_s), 1),
    }
    budget = f"{min(lora_budget_s, left_s):.0f} s"
    reasons = (
        (lora_budget_s <= 0, "no LoRA was tried: lora_budget_s is 0"),
        (rows < MIN_ROWS, f"no LoRA was tried: {rows} rows to fit on are fewer than the {MIN_ROWS} it needs"),
        (items < MIN_ITEMS, f"no LoRA was tried: {items} selection rows are too few to tell it from the head"),
        (
            (1 - head_score) * items < MIN_WRONG,
            f"no LoRA was tried: the head's selection score of {head_score:.4f} leaves nothing to win",
        ),
        (
            least_s > min(lora_budget_s, left_s),
            f"no LoRA was tried: it would take {least_s:.0f} s at least, and lora_budget_s and what is left of "
            f"time_budget_s allow {budget}",
        ),
    )
    for holds, text in reasons:
        if holds:
            return Ruling(False, text, figures)
    return Ruling(True, f"a LoRA is worth trying within {budget}", figures)


def keeps_lora(against_head: Mapping[str, Any]) -> Ruling:
    """Whether the LoRA is kept: where its score on the selection items is better by more than the paired standard
    error, and by more than 0.3 points. On a draw the head stays, since an index under it need not be encoded anew.

    Args:
        against_head: {"items", "head", "lora", "difference", "standard_error"}.
    """
    figures = {name: round(value, 5) if isinstance(value, float) else value for name, value in against_head.items()}
    needed = max(MIN_GAIN, against_head["standard_error"])
    yes = math.isfinite(needed) and against_head["difference"] > needed
    text = (
        f"the LoRA's selection score is {against_head['lora']:.4f}, the head's {against_head['head']:.4f}: a "
        f"difference of {against_head['difference']:+.4f} where more than {needed:.4f} is asked; "
        f"the {'LoRA' if yes else 'head'} was kept"
    )
    return Ruling(yes, text, figures)
