"""A gate set is the content of its rows: their order and spelling are of no matter, their answers are."""

import dataclasses

import numpy as np
import pytest

from registry.row import Row
from training.gate_set import gate_set_of

LABELLED = [Row(text=f"Where is card number {n}?", label=f"label {n % 3}") for n in range(40)]
PAIRS = [Row(anchor=f"where is card {n}", positive=f"The card {n} is on its way.") for n in range(40)]


@pytest.mark.parametrize("rows", [LABELLED, PAIRS])
def test_order_and_spelling_are_of_no_matter(rows: list[Row]) -> None:
    found = gate_set_of(rows, np.arange(10, 30))
    assert (found.rows, len(found.marks)) == (20, 20)
    assert gate_set_of(rows[::-1], np.arange(10, 30)) == found
    spelt = [
        dataclasses.replace(row, text=f" {row.text.upper()}!")
        if row.text is not None
        else dataclasses.replace(row, anchor=f"{row.subject.title()} ?", positive=(row.positive or "").upper())
        for row in rows
    ]
    assert gate_set_of(spelt, np.arange(10, 30)) == found


def test_only_judged_rows_count_and_each_by_text_and_answer() -> None:
    judged = np.arange(10, 30)
    found = gate_set_of(LABELLED, judged)
    others = [dataclasses.replace(row, text="other") for row in LABELLED]
    assert gate_set_of([*others[:10], *LABELLED[10:30], *others[30:]], judged) == found
    renamed = [*LABELLED[:10], dataclasses.replace(LABELLED[10], label="new"), *LABELLED[11:]]
    assert gate_set_of(renamed, judged).share_of(found) == pytest.approx(19 / 20)
    answered = [*PAIRS[:10], dataclasses.replace(PAIRS[10], positive="another answer"), *PAIRS[11:]]
    assert gate_set_of(answered, judged).share_of(gate_set_of(PAIRS, judged)) == pytest.approx(19 / 20)
    grouped = [dataclasses.replace(row, group="team") for row in LABELLED]
    assert gate_set_of(grouped, judged) == found


def test_it_holds_digits_and_takes_any_text() -> None:
    found = gate_set_of(
        [Row(text="a lone half \ud800 of a pair", label="x"), Row(text="", label="x")], np.array([0, 1])
    )
    assert all(len(mark) == 16 and set(mark) <= set("0123456789abcdef") for mark in found.marks)
    with pytest.raises(ValueError, match="at least one row"):
        gate_set_of(LABELLED, np.array([], dtype=np.int64))
