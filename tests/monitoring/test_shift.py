"""The display figures of a cloud: about what chance gives without drift, and far from it with drift."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from monitoring.reference import Reference
from monitoring.shift import shift

Draw = Callable[..., NDArray[np.float32]]


def test_without_drift_both_distances_are_those_of_chance(
    make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    rng = np.random.default_rng(1)
    squares = []
    for _ in range(40):
        found = shift(make_reference(rng, n_fit=60, n_cal=300), make_vectors(rng, 200))
        assert found is not None
        squares.append(
            ((found.centroid / found.centroid_by_chance) ** 2, (found.covariance / found.covariance_by_chance) ** 2)
        )
    assert np.mean(squares, axis=0) == pytest.approx([1.0, 1.0], rel=0.15)


def test_drift_moves_the_mean_and_a_narrower_cloud_changes_the_covariance(
    small_reference: Reference, make_vectors: Draw
) -> None:
    rng = np.random.default_rng(2)
    found = shift(small_reference, make_vectors(rng, 300, topics=np.array([3])))
    assert found is not None
    assert (found.n, found.m) == (300, 600)
    assert found.centroid > 5 * found.centroid_by_chance
    assert found.covariance > 3 * found.covariance_by_chance
    assert found.gauges["effective_rank"] < found.reference_gauges["effective_rank"]
    assert found.gauges["mean_random_pair_cosine"] > found.reference_gauges["mean_random_pair_cosine"]
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_too_few_vectors_have_no_shape(small_reference: Reference, make_vectors: Draw) -> None:
    assert shift(small_reference, make_vectors(np.random.default_rng(3), 1)) is None
