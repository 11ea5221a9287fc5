"""Replayed directions: unit, even over the sphere, the same for a seed, with texts after them."""

import numpy as np

from training.replay import DIRECTIONS, replayed


def test_directions_are_even_over_the_sphere_and_follow_from_the_seed() -> None:
    drawn = replayed(24, seed=5)
    assert (drawn.shape, drawn.dtype) == ((DIRECTIONS, 24), np.float32)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-5)
    assert np.linalg.norm(drawn.mean(axis=0)) < 4 / np.sqrt(DIRECTIONS)
    np.testing.assert_allclose(np.cov(drawn.T) * 24, np.eye(24), atol=0.15)
    assert np.array_equal(drawn, replayed(24, seed=5))
    assert not np.array_equal(drawn, replayed(24, seed=6))


def test_texts_are_replayed_after_the_directions() -> None:
    texts = np.eye(3, 24, dtype=np.float32)
    both = replayed(24, seed=5, texts=texts)
    assert np.array_equal(both[:DIRECTIONS], replayed(24, seed=5))
    assert np.array_equal(both[DIRECTIONS:], texts)
