"""Packed and padded batches: every token in its place, few shapes, and vectors that notice nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.batch import ROW, arrange, plan_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


def texts_of(lengths):
    return [[100 * index + place for place in range(length)] for index, length in enumerate(lengths)]


@given(LENGTHS, st.booleans())
def test_every_token_stands_once_in_one_row_with_its_owner_and_position(lengths, packed):
    texts = texts_of(lengths)
    batch = arrange(texts, packed=packed)
    for index, text in enumerate(texts):
        rows, columns = np.nonzero(batch.owners == index)
        assert batch.ids[rows, columns].tolist() == text
        assert batch.positions[rows, columns].tolist() == list(range(len(text)))
        assert len(set(rows.tolist())) == 1
        assert (np.diff(columns) == 1).all()
    assert np.count_nonzero(batch.owners >= 0) == sum(lengths)
    assert batch.outputs >= len(texts)
    assert batch.size == batch.ids.size


@given(LENGTHS)
def test_packed_rows_are_short_and_well_filled(lengths):
    batch = arrange(texts_of(lengths), packed=True)
    rows, width = batch.ids.shape
    assert width % 16 == 0
    assert width < max(ROW, *lengths) + 32
    # Best fit leaves at most one row less than half full.
    fills = np.sort((batch.owners >= 0).sum(axis=1))
    assert rows == 1 or fills[0] + fills[1] > width


@given(LENGTHS, st.integers(1, 400))
def test_a_padded_graph_gets_a_text_a_row_and_no_row_without_a_token(lengths, limit):
    batch = arrange(texts_of(lengths), packed=False, max_tokens=limit)
    feed = batch.feed(packed=False)
    mask = feed["attention_mask"]
    assert mask[: len(lengths)].sum(axis=1).tolist() == lengths
    assert (mask[len(lengths) :].sum(axis=1) == 1).all()
    assert mask.shape[1] == max(lengths) or mask.shape[1] <= limit


def test_there_are_few_shapes():
    draw = np.random.default_rng(0)
    shapes = {
        arrange(texts_of(draw.integers(3, 60, size=draw.integers(1, 30))), packed=True).ids.shape for _ in range(2000)
    }
    assert len(shapes) < 30


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 1000), st.booleans())
def test_batches_hold_every_text_once_within_the_budget(lengths, budget, packed):
    batches = plan_batches(lengths, budget, packed=packed)
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths)
    for batch in batches:
        own = [lengths[index] for index in batch]
        assert len(own) == 1 or (sum(own) if packed else len(own) * max(own)) <= budget


@pytest.mark.parametrize("seed", range(3))
def test_vectors_do_not_depend_on_who_shares_the_row(open_encoder, seed):
    exact_encoder = open_encoder(provider="cpu", precision="fp32", threads=2, streams=1)
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(["card", "transfer", "why", "is", "my"], size=n)) for n in draw.integers(1, 60, 40)]
    tokens = exact_encoder.tokenizer.encode(texts).ids
    assert exact_encoder.session.packed
    together = exact_encoder.run(tokens)
    alone = np.concatenate([exact_encoder.run([ids]) for ids in tokens])
    assert np.abs(together - alone).max() < 1e-6
