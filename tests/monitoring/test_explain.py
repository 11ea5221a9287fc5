"""The explanation: the neighbourhood that was made to move is named, and none is named where nothing moved."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from monitoring.appeared import appeared, distinct
from monitoring.errors import VectorsRefused
from monitoring.explain import Explainer
from monitoring.informative import ALIKE, informative
from monitoring.newest import Newest
from monitoring.reference import Reference

TOPICS, DIMENSION, SPREAD = 10, 24, 0.5
CENTRES = np.random.default_rng(8).normal(size=(TOPICS + 2, DIMENSION))
CENTRES /= np.linalg.norm(CENTRES, axis=1, keepdims=True)
CENTRES[TOPICS] = CENTRES[3] + 1.3 * CENTRES[TOPICS]  # the first unseen topic lies beside topic 3
CENTRES[TOPICS] /= np.linalg.norm(CENTRES[TOPICS])


def cloud(rng: np.random.Generator, topics: NDArray[np.int64]) -> NDArray[np.float32]:
    """A unit vector about the centre of each topic: cosines of 0.8 within one, of 0.2 between two."""
    x = CENTRES[topics] + SPREAD / np.sqrt(DIMENSION) * rng.normal(size=(len(topics), DIMENSION))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def traffic(
    rng: np.random.Generator, n: int, *, weight: dict[int, float] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """n vectors of the known topics, each as often as any other but for those with a weight, and their topics."""
    shares = np.concatenate([np.ones(TOPICS), np.zeros(2)])
    for topic, factor in (weight or {}).items():
        shares[topic] = factor
    topics = rng.choice(TOPICS + 2, n, p=shares / shares.sum()).astype(np.int64)
    return cloud(rng, topics), topics


def reference(seed: int, *, labels: bool = True, held_out: int = 600) -> Reference:
    rng = np.random.default_rng(seed)
    fit, topics = traffic(rng, 600)
    return Reference.build(
        fit=fit,
        fit_ids=[f"row-{i}" for i in range(len(fit))],
        fit_labels=[f"topic-{t}" for t in topics] if labels else None,
        calibration=traffic(rng, held_out)[0],
        replay=traffic(rng, held_out // 3)[0],
        seed=seed,
        directions=16,
    )


@pytest.fixture(scope="module")
def known() -> Explainer:
    return Explainer(reference(1))


def test_a_topic_that_grew_is_named_first_with_its_share(known: Explainer) -> None:
    rng = np.random.default_rng(2)
    for topic in range(TOPICS):
        vectors, topics = traffic(rng, 800, weight={topic: 3.0})
        first = known.explain(vectors).changes[0]
        assert (first.kind, first.name, first.significant) == ("grew", f"topic-{topic}", True)
        assert first.interval[0] <= (topics == topic).mean() <= first.interval[1]
        assert first.expected == pytest.approx(1 / TOPICS, abs=0.04)
        assert (topics[list(first.members)] == topic).mean() > 0.9
        labels = known.reference.fit_labels
        assert labels is not None
        rows = [known.reference.fit_ids.index(name) for name in first.medoids]
        assert {labels[row] for row in rows} == {first.name}


def test_a_topic_that_went_away_is_named_first(known: Explainer) -> None:
    rng = np.random.default_rng(3)
    for topic in range(TOPICS):
        first = known.explain(traffic(rng, 800, weight={topic: 0.0})[0]).changes[0]
        assert (first.kind, first.name) == ("shrank", f"topic-{topic}")


def test_an_unseen_topic_is_found_and_placed_beside_the_one_it_resembles(known: Explainer) -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        vectors, topics = traffic(rng, 1200, weight={TOPICS: 0.5})
        first = known.explain(vectors).changes[0]
        assert (first.kind, first.name) == ("appeared", "topic-3")
        assert first.nearest[0][0] == "topic-3"
        assert (topics[list(first.members)] == TOPICS).mean() > 0.8
        assert first.observed > 5 * first.expected


def test_two_unseen_topics_are_two_appearances(known: Explainer) -> None:
    vectors, topics = traffic(np.random.default_rng(5), 900, weight={TOPICS: 0.6, TOPICS + 1: 0.6})
    found = [change for change in known.explain(vectors).changes if change.kind == "appeared"]
    held = [np.bincount(topics[list(change.members)], minlength=TOPICS + 2).argmax() for change in found]
    assert set(held) == {TOPICS, TOPICS + 1}


def test_without_a_change_little_is_called_certain() -> None:
    """Each run draws reference and traffic anew; growth and appearance together may be found in 6 % of them."""
    runs = 80
    wrong = 0
    for run in range(runs):
        vectors, _ = traffic(np.random.default_rng((9, run)), 300)
        wrong += any(change.significant for change in Explainer(reference(100 + run)).explain(vectors).changes)
    assert wrong <= binom.ppf(0.999, runs, 0.06)


def test_one_text_sent_many_times_is_no_new_neighbourhood() -> None:
    rng = np.random.default_rng(6)
    vectors, _ = traffic(rng, 300)
    stranger = cloud(rng, np.array([TOPICS + 1]))
    repeated = np.concatenate([vectors, np.repeat(stranger, 40, axis=0)])
    assert len(distinct(repeated)) == 301
    assert appeared(repeated, traffic(rng, 600)[0]) == []
    several = np.concatenate([vectors, cloud(rng, np.full(40, TOPICS + 1))])
    (ball,) = appeared(several, traffic(rng, 600)[0])
    assert (ball.members >= 300).mean() > 0.8
    assert ball.known <= 2


def test_other_vectors_are_told_by_the_same_changes(known: Explainer) -> None:
    rng = np.random.default_rng(7)
    found = known.explain(traffic(rng, 900, weight={TOPICS: 1.0, 5: 3.0})[0])
    fresh, topics = traffic(rng, 400, weight={TOPICS: 1.0})
    places = np.array([-1 if place is None else place for place in known.belongs(fresh, found.changes)])
    appearance = next(i for i, change in enumerate(found.changes) if change.kind == "appeared")
    grown = next(i for i, change in enumerate(found.changes) if change.name == "topic-5")
    assert (topics[places == appearance] == TOPICS).mean() > 0.9
    assert (topics[places == grown] == 5).mean() > 0.9
    assert (places[topics == 5] == grown).mean() > 0.8


def test_without_labels_the_cells_are_named() -> None:
    explainer = Explainer(reference(11, labels=False))
    vectors, _ = traffic(np.random.default_rng(11), 900, weight={4: 4.0})
    found = explainer.explain(vectors)
    first = found.changes[0]
    home = int(explainer.reference.assign(CENTRES[4:5].astype(np.float32))[0])
    assert (found.basis, first.kind, first.name, first.cell) == ("cells", "grew", f"cell {home}", home)


def test_nothing_is_named_where_there_is_nothing_to_compare_with(known: Explainer) -> None:
    vectors, _ = traffic(np.random.default_rng(12), 100)
    assert Explainer(reference(12, held_out=30)).explain(vectors).changes == ()
    empty = known.explain(vectors[:0])
    assert (empty.n, empty.changes) == (0, ())
    with pytest.raises(VectorsRefused):
        known.explain(vectors[:, :5])


def test_what_is_shown_holds_no_vector(known: Explainer) -> None:
    found = known.explain(traffic(np.random.default_rng(13), 600, weight={TOPICS: 1.0})[0])
    document = json.loads(json.dumps(found.to_json()))
    assert document["changes"][0]["nearest"][0].keys() == {"name", "cosine"}
    assert not {"members", "centre", "within"} & document["changes"][0].keys()


def test_the_ring_keeps_the_newest_in_their_order() -> None:
    rng = np.random.default_rng(14)
    vectors = cloud(rng, rng.integers(0, TOPICS, 500))
    ring = Newest(DIMENSION, capacity=200)
    assert ring.newest().shape == (0, DIMENSION)
    for start in range(0, 500, 30):
        ring.add(vectors[start : start + 30])
    assert len(ring) == 200
    assert np.abs(ring.newest() - vectors[300:]).max() < 1e-3
    assert np.abs(ring.newest(7) - vectors[493:]).max() < 1e-3
    ring.add(vectors)
    assert np.abs(ring.newest() - vectors[300:]).max() < 1e-3
    assert len(ring.newest(10_000)) == 200
    with pytest.raises(ValueError, match="at least one"):
        Newest(DIMENSION, capacity=0)


def test_what_to_label_is_new_frequent_and_varied(known: Explainer) -> None:
    """Traffic with two unseen topics and some oddities that resemble nothing: the topics come first, both of them."""
    rng = np.random.default_rng(15)
    vectors, topics = traffic(rng, 400, weight={TOPICS: 0.8, TOPICS + 1: 0.8})
    odd = rng.normal(size=(20, DIMENSION))
    odd /= np.linalg.norm(odd, axis=1, keepdims=True)
    given = np.concatenate([vectors, odd.astype(np.float32)])
    kinds = np.concatenate([topics, np.full(20, 99)])
    picks = informative(known.reference, given, 20)
    chosen = kinds[[pick.row for pick in picks]]
    assert {TOPICS, TOPICS + 1} <= set(chosen[:4])
    assert np.isin(chosen, (TOPICS, TOPICS + 1)).mean() > 3 * np.isin(kinds, (TOPICS, TOPICS + 1)).mean()
    assert len({pick.row for pick in picks}) == 20
    assert [p.score for p in picks] == sorted((p.score for p in picks), reverse=True)
    for pick in picks:
        assert pick.score == pytest.approx(pick.novelty * pick.density**2 * pick.diversity**0.5)
        assert pick.p_value == pytest.approx(float(known.reference.novelty(given[[pick.row]])[0]))
        assert pick.alike == int((given @ given[pick.row] >= ALIKE).sum()) - 1


def test_the_same_text_is_picked_once(known: Explainer) -> None:
    rng = np.random.default_rng(16)
    one = np.repeat(cloud(rng, np.array([TOPICS])), 30, axis=0)
    assert len(informative(known.reference, one, 10)) == 1
    assert informative(known.reference, one[:0], 10) == []
    assert len(informative(known.reference, one[:1], 10)) == 1
