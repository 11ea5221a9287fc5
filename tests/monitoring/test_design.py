"""Perturbations are dealt evenly, and what was tried on some items is compared with the clean scores of those."""

from collections import Counter

import numpy as np
import pytest

from monitoring.errors import VectorsRefused
from monitoring.perturbations import KINDS, SEVERITIES, perturb
from monitoring.robustness import designed, robustness

TEXTS = [f"please tell me, where is the new card number {n} that I ordered last week" for n in range(100)]
ALL = len(KINDS) * len(SEVERITIES)


@pytest.mark.parametrize(("most", "each"), [(0, 1), (150, 1), (200, 2), (700, 7), (100 * ALL, ALL), (10**6, ALL)])
def test_every_item_is_perturbed_as_often_as_allowed_and_every_kind_about_as_often(most: int, each: int) -> None:
    design = designed(TEXTS, most=most, seed=1)
    assert Counter(design.items().tolist()) == dict.fromkeys(range(100), each)
    sizes = [len(places) for places in design.places.values()]
    assert len(sizes) == ALL
    assert max(sizes) - min(sizes) <= 1
    assert list(design.places) == sorted(design.places)
    for places in design.places.values():
        assert np.array_equal(places, np.unique(places)), "ascending, and no item twice"


def test_the_texts_are_those_of_their_places() -> None:
    design = designed(TEXTS, most=300, seed=4)
    at = 0
    for (kind, severity), places in design.places.items():
        expected = perturb([TEXTS[place] for place in places], kind, severity, seed=4)
        assert design.texts[at : at + len(places)] == expected
        at += len(places)
    assert at == len(design.texts) == len(design.items())
    parted = design.parted(np.arange(at))
    assert {key: len(values) for key, values in parted.items()} == {k: len(p) for k, p in design.places.items()}
    assert np.concatenate(list(parted.values())).tolist() == list(range(at))


def test_it_is_seeded_and_takes_few_texts() -> None:
    assert designed(TEXTS, most=200, seed=1).texts == designed(TEXTS, most=200, seed=1).texts
    assert designed(TEXTS, most=200, seed=1).items().tolist() != designed(TEXTS, most=200, seed=2).items().tolist()
    few = designed(TEXTS[:3], most=0)
    assert sorted(few.items().tolist()) == [0, 1, 2]
    assert all(len(places) for places in few.places.values()), "a kind that was tried on nothing is not named"
    with pytest.raises(VectorsRefused, match="nothing to perturb"):
        designed([], most=10)


def test_scores_by_place_are_compared_with_the_same_items() -> None:
    rng = np.random.default_rng(0)
    clean, clusters = rng.random(100), np.arange(100) // 2
    design = designed(TEXTS, most=300, seed=2)
    scored = design.parted(rng.random(300))
    found = robustness(clean, scored, clusters, places=design.places, n=200)
    by_item: dict[int, dict[str, list[float]]] = {item: {} for item in range(100)}
    for (kind, _), places, values in zip(scored, design.places.values(), scored.values(), strict=True):
        for item, value in zip(places.tolist(), values.tolist(), strict=True):
            by_item[item].setdefault(kind, []).append(value)
    expected = [np.mean([np.mean(values) for values in by_item[item].values()]) for item in range(100)]
    assert found.items == pytest.approx(expected)
    for row in found.rows:
        places = design.places[row.kind, row.severity]
        assert row.drop.mean == pytest.approx(clean[places].mean() - scored[row.kind, row.severity].mean())
        assert row.relative_drop == pytest.approx(row.drop.mean / clean[places].mean())
        assert (row.drop.items, row.drop.clusters) == (len(places), len(np.unique(clusters[places])))
    # Everything tried on everything is the same with and without places.
    whole = designed(TEXTS, most=100 * ALL)
    values = whole.parted(rng.random(100 * ALL))
    plain = robustness(clean, values, clusters, n=200)
    assert plain.to_json() == robustness(clean, values, clusters, places=whole.places, n=200).to_json()


def test_an_item_without_a_perturbation_is_refused() -> None:
    with pytest.raises(VectorsRefused, match="every item"):
        robustness(np.ones(3), {("typos", 1): np.ones(2)}, places={("typos", 1): np.array([0, 2])})
    with pytest.raises(VectorsRefused, match="every item"):
        robustness(np.ones(3), {("typos", 1): np.ones(3)}, places={("typos", 1): np.array([0, 2])})
