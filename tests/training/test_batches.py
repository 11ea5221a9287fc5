"""Batches: no text twice, labels alike in number, every pair in its turn, and plain shuffles where answers are few."""

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.batches import labelled_batches, pair_batches, without_repeats


def test_labels_are_balanced_and_texts_come_once() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), [300, 300, 20, 20, 20, 20, 20, 20, 20, 20])
    texts = np.arange(len(labels)) // 2  # every text twice
    for batch in islice(labelled_batches(labels, 80, rng, texts), 20):
        assert len(np.unique(texts[batch])) == len(batch)
        assert np.bincount(labels[batch], minlength=10).max() <= 8
    for batch in islice(labelled_batches(labels, 5_000, rng, texts), 2):
        assert len(batch) == len(labels) // 2


def test_the_first_of_repeated_texts_stays_in_order() -> None:
    texts = np.array([5, 6, 5, 7, 6])
    assert without_repeats(np.array([4, 2, 0, 3, 1]), texts).tolist() == [4, 2, 3]
    assert without_repeats(np.array([1, 1]), None).tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(8, 20)), min_size=1, max_size=40),
    size=st.integers(1, 16),
    seed=st.integers(0, 5),
)
def test_no_text_comes_twice_in_a_batch_of_pairs(pairs: list[tuple[int, int]], size: int, seed: int) -> None:
    anchors, positives = np.array(pairs).T
    few = 2 * min(len(set(anchors)), len(set(positives))) < min(size, len(pairs))
    for batch in islice(pair_batches(anchors, positives, size, np.random.default_rng(seed)), 8):
        assert 1 <= len(batch) <= size
        assert len(np.unique(batch)) == len(batch)
        texts = [text for row in batch for text in {int(anchors[row]), int(positives[row])}]
        assert few or len(texts) == len(set(texts))


def test_every_pair_has_its_turn_though_one_answer_is_common() -> None:
    anchors = np.arange(60)
    positives = np.where(anchors < 6, 100, 100 + anchors)
    seen: set[int] = set()
    for batch in islice(pair_batches(anchors, positives, 10, np.random.default_rng(1)), 60):
        assert (batch < 6).sum() <= 1
        seen |= set(batch.tolist())
    assert seen == set(range(60))


def test_few_answers_are_merely_shuffled() -> None:
    anchors, positives = np.arange(40), 100 + np.arange(40) % 3
    for batch in islice(pair_batches(anchors, positives, 20, np.random.default_rng(1)), 4):
        assert len(batch) == 20
