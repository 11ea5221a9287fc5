"""Other wordings of fitted texts: what may carry a label stays to the letter, whatever the text."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.near import normal_form
from training.augment import KINDS, LEAST_WORDS, MAX_SHARE, Keep, reworded, wordings

WORDS = st.one_of(
    st.sampled_from(["please", "would", "account", "not", "don't", "only", "42", "B2B", "transfer,", "can't", "the"]),
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12),
)
TEXTS = st.lists(WORDS, min_size=1, max_size=25).map(" ".join).filter(lambda text: bool(text.strip()))
COMMON = ["please could you tell me how the transfer of money works", "could you please tell me about the card"] * 3
KEEP = Keep.of(COMMON, ["a", "b"] * 3)


def changed(before: list[str], after: list[str]) -> int:
    """Words of `before` that are not found in `after`, each as often as it stands there."""
    return (Counter(before) - Counter(after)).total()


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(sorted(KINDS)), st.integers(0, 5))
def test_a_wording_keeps_what_may_carry_a_label_and_changes_few_words(text: str, kind: str, number: int) -> None:
    words = text.split()
    loose = KEEP.loose(words)
    kept = [word for place, word in enumerate(words) if place not in set(loose)]
    found = reworded(text, kind, KEEP, seed=1, number=number).split()
    assert found
    assert not Counter(kept) - Counter(found)  # to the letter
    assert changed(words, found) <= max(1, int(MAX_SHARE * len(loose)))
    assert len(found) >= min(LEAST_WORDS, len(words))
    assert re.findall(r"\d", " ".join(sorted(found))) == re.findall(r"\d", " ".join(sorted(words)))
    if kind != "clause shuffling":  # what stays, stays in order
        order = iter(found)
        assert all(word in order for word in kept)
    assert found == reworded(text, kind, KEEP, seed=1, number=number).split()


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_a_slip_leaves_the_first_letter_and_the_length_within_one(text: str) -> None:
    words = text.split()
    found = reworded(text, "typos", KEEP, seed=0).split()
    for before, after in zip(words, found, strict=True):
        assert before[0] == after[0]
        assert abs(len(before) - len(after)) <= 1


@pytest.mark.parametrize(
    "word", ["not", "no", "never", "don't", "wasnt", "without", "only", "except", "7", "v2", "£10"]
)
def test_negations_limits_and_numbers_are_never_loose(word: str) -> None:
    text = f"please could you tell me {word} how the transfer of money works and about the card"
    place = text.split().index(word)
    assert place not in Keep.of([text] * 9).loose(text.split())


def test_words_that_prefer_a_label_are_kept_and_words_of_all_labels_are_not() -> None:
    texts = [f"how can i {verb} my card please" for verb in ("freeze", "order", "top") for _ in range(6)]
    labels = [label for label in ("freeze", "order", "top") for _ in range(6)]
    keep = Keep.of(texts, labels)
    assert keep.owned == {"freeze", "order", "top"}
    assert not Keep.of(texts).owned


def test_wordings_are_new_within_the_budget_and_shared_out() -> None:
    texts = [f"please could you tell me, if you can, how the {noun} of my account works" for noun in "abcdefghij"]
    taken = [reworded(texts[0], "word dropout", Keep.of(texts), seed=2, number=0)]
    found = wordings(texts, 25, Keep.of(texts), seed=2, taken=taken)
    forms = [normal_form(wording.text) for wording in found]
    assert len(found) == 25
    assert len(set(forms)) == 25
    assert not set(forms) & {normal_form(text) for text in [*texts, *taken]}
    counts = Counter(wording.of for wording in found)
    assert max(counts.values()) - min(counts[place] for place in range(10)) <= 2
    assert found == wordings(texts, 25, Keep.of(texts), seed=2, taken=taken)
    assert found != wordings(texts, 25, Keep.of(texts), seed=3, taken=taken)
    assert {wording.kind for wording in wordings(texts, 9, Keep.of(texts), seed=2, kinds=("typos",))} == {"typos"}
    assert not wordings(["one", "two"], 5, Keep.of(["one", "two"]), seed=0)
