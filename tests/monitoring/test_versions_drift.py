"""Two versions on frozen probes: every measure against a plain form of its definition, and what is advised."""

import json

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.alignment import debiased_cka
from monitoring.errors import VectorsRefused
from monitoring.versions_drift import MEASURES, compare_versions, jaccard, rank_biased_overlap


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def space():
    """Rows and probes of the old version, drawn around common centres as texts are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 24))
    return [unit(centres[rng.integers(0, 30, n)] + 0.7 * rng.normal(size=(n, 24))) for n in (400, 150)]


def lists(k, n=6):
    return st.integers(0, 2**31).map(
        lambda seed: [
            np.stack([np.random.default_rng((seed, side, row)).permutation(3 * k)[:k] for row in range(n)])
            for side in (0, 1)
        ]
    )


@given(st.integers(1, 12).flatmap(lists))
@settings(max_examples=50, deadline=None)
def test_overlaps_are_their_definitions(pair):
    a, b = pair
    sets = [(set(x.tolist()), set(y.tolist())) for x, y in zip(a, b, strict=True)]
    assert jaccard(a, b) == pytest.approx([len(x & y) / len(x | y) for x, y in sets])
    p, k = 0.9, a.shape[1]
    wanted = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        common = [len(set(x[:d]) & set(y[:d])) for d in range(1, k + 1)]
        tail = common[-1] / k * p**k
        wanted.append(tail + (1 - p) / p * sum(c / d * p**d for d, c in enumerate(common, 1)))
    assert rank_biased_overlap(a, b) == pytest.approx(wanted)
    assert rank_biased_overlap(a, a) == pytest.approx(np.ones(len(a)))
    assert rank_biased_overlap(a, a + 3 * k) == pytest.approx(np.zeros(len(a)))


def test_the_first_places_weigh_most():
    own = np.arange(50)[None, :]
    first, last = own.copy(), own.copy()
    first[0, 0], last[0, -1] = 99, 99
    assert rank_biased_overlap(own, first) < rank_biased_overlap(own, last)
    assert jaccard(own, first) == jaccard(own, last)


def test_every_measure_is_its_definition(space):
    rows, probes = space
    rng = np.random.default_rng(1)
    mix = np.eye(24) + 0.4 * rng.normal(size=(24, 24))
    new_rows, new_probes = unit(rows @ mix), unit(probes @ mix)
    found = compare_versions(rows, new_rows, probes, new_probes)
    means = {name: interval.mean for name, interval in found.measures.items()}

    def near(index, queries, k):
        return np.argsort(-(queries.astype(np.float64) @ index.T.astype(np.float64)), axis=1)[:, :k]

    def kept(a, b):
        return np.mean([len(set(x) & set(y)) / len(x) for x, y in zip(a.tolist(), b.tolist(), strict=True)])

    old, new = near(rows, probes, 50), near(new_rows, new_probes, 50)
    turn, _ = scipy.linalg.orthogonal_procrustes(rows.astype(np.float64), new_rows.astype(np.float64))
    wanted = {
        "jaccard_at_10": jaccard(old[:, :10], new[:, :10]).mean(),
        "jaccard_at_50": jaccard(old, new).mean(),
        "rbo": rank_biased_overlap(old, new).mean(),
        "cka": debiased_cka(probes, new_probes),
        "procrustes_r2": 1 - np.sum((probes @ turn - new_probes) ** 2) / np.sum(new_probes**2),
        "mixed_recall_at_10": kept(new[:, :10], near(rows, new_probes, 10)),
        "rotated_recall_at_10": kept(new[:, :10], near(rows, new_probes @ turn.T, 10)),
    }
    assert list(means) == list(MEASURES)
    assert means == pytest.approx(wanted, abs=2e-4)
    assert all(i.low <= i.mean <= i.high and i.high > i.low for i in found.measures.values())
    assert means["rotated_recall_at_10"] > means["mixed_recall_at_10"]


def test_the_same_version_is_the_same(space):
    rows, probes = space
    found = compare_versions(rows, rows, probes, probes)
    assert {name: round(i.low, 4) for name, i in found.measures.items()} == dict.fromkeys(MEASURES, 1.0)
    assert found.alike
    assert found.index_serves
    assert "as it is" in found.words


def test_a_turned_version_needs_a_rotation_and_nothing_else(space):
    rows, probes = space
    turn = scipy.linalg.qr(np.random.default_rng(2).normal(size=(24, 24)))[0]
    found = compare_versions(rows, unit(rows @ turn), probes, unit(probes @ turn))
    low = {name: round(i.low, 3) for name, i in found.measures.items()}
    assert low.pop("mixed_recall_at_10") < 0.5
    assert all(value > 0.99 for value in low.values()), low
    assert found.index_serves
    assert "rotated" in found.words


def test_an_unrelated_version_takes_a_new_index(space):
    rows, probes = space
    rng = np.random.default_rng(3)
    strange = compare_versions(rows, unit(rng.normal(size=rows.shape)), probes, unit(rng.normal(size=probes.shape)))
    assert not strange.alike
    assert not strange.index_serves
    assert strange.words.startswith("Encode indexed texts anew")
    assert strange.measures["cka"].low < 0.05


def test_a_wider_version_is_compared_as_well(space):
    rows, probes = space
    wide = [np.pad(side, ((0, 0), (0, 8))) for side in (rows, probes)]
    found = compare_versions(rows, wide[0], probes, wide[1])
    assert found.measures["rotated_recall_at_10"].low == 1


def test_few_rows_leave_the_deep_measures_out_and_too_few_are_refused(space):
    rows, probes = space
    found = compare_versions(rows[:100], rows[:100], probes, probes)
    assert set(MEASURES) - set(found.to_json()["measures"]) == {"jaccard_at_50", "rbo"}
    for given_rows, given_probes in ((rows[:39], probes), (rows, probes[:19])):
        with pytest.raises(VectorsRefused, match="at least"):
            compare_versions(given_rows, given_rows, given_probes, given_probes)
    with pytest.raises(VectorsRefused):
        compare_versions(rows, rows[1:], probes, probes)


def test_it_is_repeatable_and_plain_json(space):
    rows, probes = space
    turned = compare_versions(rows, np.roll(rows, 1, axis=1), probes, np.roll(probes, 1, axis=1)).to_json()
    again = compare_versions(rows, np.roll(rows, 1, axis=1), probes, np.roll(probes, 1, axis=1)).to_json()
    assert json.loads(json.dumps(turned)) == again
