"""Batches are rounded up to few shapes, and no vector notices."""

import numpy as np
import pytest

from service.shapes import ROWS, rounded


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (7, 15), (16, 32), (33, 33), (5, 200), (130, 8)])
def test_what_is_added_is_masked(rows, columns):
    ids, mask = np.full((rows, columns), 7), np.ones((rows, columns), dtype=np.int64)
    wide_ids, wide_mask = rounded(ids, mask, 256)
    assert np.array_equal(wide_ids[:rows, :columns], ids)
    assert wide_mask[:rows].sum() == rows * columns
    assert (wide_mask[rows:].sum(axis=1) == 1).all()  # no row without a token: its mean would be of nothing


def test_there_are_few_shapes():
    shapes = {
        rounded(*(np.ones((rows, columns), dtype=np.int64),) * 2, 256)[0].shape
        for rows in range(1, 65)
        for columns in range(3, 257, 1)
        if rows * columns <= 512 or rows == 1
    }
    assert len({columns for _, columns in shapes}) <= 22
    assert {rows for rows, _ in shapes} <= set(ROWS)


def test_the_models_limit_is_not_passed():
    ids = np.ones((2, 250), dtype=np.int64)
    assert rounded(ids, ids, 251)[0].shape == (2, 251)


def test_vectors_are_those_of_the_plain_batch(exact_encoder):
    tokens = exact_encoder.tokenizer.encode(["one", "two words", "three of them here"] * 3)
    ids, mask = exact_encoder.tokenizer.pad(tokens.ids)
    plain = exact_encoder.session.run(ids, mask)
    assert np.abs(exact_encoder.session.run(*rounded(ids, mask, 256))[: len(ids)] - plain).max() < 1e-5
