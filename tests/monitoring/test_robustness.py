"""Perturbations keep their bounds on any text, and the summary is the plain one."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.errors import VectorsRefused
from monitoring.perturbations import KINDS, NEIGHBOURS, SEVERITIES, perturb
from monitoring.robustness import robustness

TEXTS = [
    "How do I locate my card?",
    "I still have not received my new card, I ordered over a week ago.",
    "Why was I charged $1.50 twice, and can I get it back?",
    "Please don't cancel the transfer of 300 euro to my landlord because the rent is due tomorrow",
    "refund",
    "My top-up was reverted; what happened?",
]
EVERY = [(kind, severity) for kind in KINDS for severity in SEVERITIES]


def distance(a: str, b: str) -> int:
    """Edits between two words, a swap of neighbours counted as one (optimal string alignment)."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        rows.append([i])
        for j, y in enumerate(b, 1):
            best = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, rows[i - 2][j - 2] + 1)
            rows[i].append(best)
    return rows[-1][-1]


@settings(max_examples=150, deadline=None)
@given(text=st.text(min_size=1, max_size=80), seed=st.integers(0, 5))
def test_any_text_keeps_something_and_every_result_repeats(text: str, seed: int) -> None:
    for kind, severity in EVERY:
        (changed,) = perturb([text], kind, severity, seed=seed)
        assert bool(changed.strip()) == bool(text.strip())
        assert perturb(["another", text], kind, severity, seed=seed)[1] == changed


@pytest.mark.parametrize("severity", SEVERITIES)
def test_typos_are_single_slips_in_some_longer_words(severity: int) -> None:
    share = (0.1, 0.25, 0.4)[severity - 1]
    for seed in range(30):
        for text, changed in zip(TEXTS, perturb(TEXTS, "typos", severity, seed=seed), strict=True):
            old, new = text.split(), changed.split()
            assert len(old) == len(new)
            differ = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
            assert len(differ) <= np.ceil(share * sum(len(word) >= 4 for word in old))
            for a, b in differ:
                assert distance(a, b) == 1
                assert a[0] == b[0]
                assert len(a) >= 4
                assert not re.search(r"\d", a)


@pytest.mark.parametrize(("kind", "severity"), EVERY)
def test_numbers_and_negations_stay(kind: str, severity: int) -> None:
    for seed in range(20):
        changed = perturb(TEXTS, kind, severity, seed=seed)
        assert re.search(r"\bnot\b", changed[1].lower())
        assert "1.50" in changed[2]
        assert "don't" in changed[3].lower()
        assert "300" in changed[3]


def test_most_words_stay_and_order_is_kept_where_words_are_lost() -> None:
    for seed in range(30):
        for severity, dropped, kept in zip(SEVERITIES, (0.1, 0.2, 0.3), (0.9, 0.75, 0.6), strict=True):
            for text, changed in zip(TEXTS, perturb(TEXTS, "dropped_words", severity, seed=seed), strict=True):
                old, new = text.split(), changed.split()
                assert len(new) >= min(len(old), max(3, len(old) - np.ceil(dropped * len(old))))
                remaining = iter(old)
                assert all(word in remaining for word in new), "what stays is in its order"
            for text, changed in zip(TEXTS, perturb(TEXTS, "truncation", severity, seed=seed), strict=True):
                assert text.startswith(changed)
                assert len(changed.split()) >= min(len(text.split()), max(3, kept * len(text.split())))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_clauses_case_and_spacing_keep_the_letters(severity: int) -> None:
    for seed in range(30):
        for kind in ("swapped_clauses", "case", "spacing"):
            for text, changed in zip(TEXTS, perturb(TEXTS, kind, severity, seed=seed), strict=True):
                letters = [sorted(re.sub(r"[\W_]", "", t.lower())) for t in (text, changed)]
                assert letters[0] == letters[1]
    swapped = perturb(TEXTS, "swapped_clauses", severity, seed=1)
    assert swapped[0] == TEXTS[0], "one clause has nothing to swap"
    assert sorted(swapped[5].split()) == sorted(TEXTS[5].split())


def test_perturbations_do_change_texts_and_seeds_differ() -> None:
    for kind, severity in EVERY:
        changed = sum(a != b for a, b in zip(TEXTS, perturb(TEXTS, kind, severity), strict=True))
        assert changed >= 2, (kind, severity)
    assert perturb(TEXTS, "typos", 3, seed=1) != perturb(TEXTS, "typos", 3, seed=2)
    assert perturb(TEXTS, "case", 2)[0] == TEXTS[0].upper()
    for kind, severity in (("luck", 1), ("typos", 0), ("typos", 4)):
        with pytest.raises(ValueError, match="kinds are"):
            perturb(TEXTS, kind, severity)


def test_neighbours_are_keys_that_touch() -> None:
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert all(key in NEIGHBOURS[near] for key, keys in NEIGHBOURS.items() for near in keys)


def test_the_summary_is_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    clean = (rng.random(300) < 0.9).astype(float)
    scored = {(kind, s): clean * (rng.random(300) < 1 - 0.05 * s) for kind in ("typos", "case") for s in (1, 2)}
    found = robustness(clean, scored)
    assert [(row.kind, row.severity) for row in found.rows] == [("case", 1), ("case", 2), ("typos", 1), ("typos", 2)]
    for row in found.rows:
        assert row.score == pytest.approx(scored[row.kind, row.severity].mean())
        assert row.drop.mean == pytest.approx(clean.mean() - row.score)
        assert row.drop.low <= row.drop.mean <= row.drop.high
        assert row.relative_drop == pytest.approx(row.drop.mean / clean.mean())
    assert found.items == pytest.approx(np.mean(list(scored.values()), axis=0))
    # A kind with fewer severities weighs no less.
    uneven = robustness(clean, {key: values for key, values in scored.items() if key != ("case", 2)})
    expected = (scored["case", 1] + (scored["typos", 1] + scored["typos", 2]) / 2) / 2
    assert uneven.items == pytest.approx(expected)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["score"] == pytest.approx(found.items.mean())
    with pytest.raises(VectorsRefused, match="every item"):
        robustness(clean, {})
    with pytest.raises(VectorsRefused, match="every item"):
        robustness(clean, {("case", 1): clean[1:]})
