"""Group means and gaps against plain ones, and how seldom a group is called lost without a loss."""

import itertools
import json

import numpy as np
import pytest

from monitoring.errors import VectorsRefused
from monitoring.subgroups import length_groups, subgroups, surely_lost


def test_means_worst_group_and_gap_are_the_plain_ones() -> None:
    rng = np.random.default_rng(0)
    marks = [f"g{i}" for i in rng.integers(0, 4, 600)] + ["tiny"] * 5
    scores = np.array([0.6 if mark == "g2" else 0.9 for mark in marks]) + 0.05 * rng.normal(size=605)
    scores[-5:] = 0.0
    found = subgroups(scores, marks)
    means = {mark: scores[[m == mark for m in marks]].mean() for mark in set(marks)}
    assert {group.name: group.score.mean for group in found.groups} == pytest.approx(means)
    assert [group.name for group in found.groups][:2] == ["tiny", "g2"]
    assert not found.groups[0].judged
    assert found.worst is not None
    assert found.worst.name == "g2"
    assert found.gap is not None
    assert found.gap.mean == pytest.approx(scores.mean() - means["g2"])
    assert found.gap.low < found.gap.mean < found.gap.high
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["worst"] == "g2"
    assert subgroups(scores, marks, seed=3).to_json() == subgroups(scores, marks, seed=3).to_json()


def test_intervals_of_groups_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    marks = ["a"] * 120 + ["b"] * 240
    covered = 0
    for seed in range(200):
        scores = np.concatenate([rng.beta(2, 2, 120), rng.beta(4, 2, 240)])
        found = {group.name: group.score for group in subgroups(scores, marks, seed=seed, n=400).groups}
        covered += (found["a"].low <= 0.5 <= found["a"].high) + (found["b"].low <= 2 / 3 <= found["b"].high)
    assert 0.91 <= covered / 400 <= 0.985


def test_clusters_are_drawn_whole_and_few_of_them_are_not_judged() -> None:
    rng = np.random.default_rng(2)
    marks, clusters = ["a"] * 300, np.repeat(np.arange(50), 6)
    scores = np.repeat(rng.random(50), 6)
    alone, together = subgroups(scores, marks), subgroups(scores, marks, clusters)
    width = [found.groups[0].score.high - found.groups[0].score.low for found in (alone, together)]
    assert width[1] == pytest.approx(width[0] * np.sqrt(6), rel=0.15)
    assert subgroups(scores, marks, np.arange(300) % 9).worst is None
    assert surely_lost(np.full(300, -1.0), {"x": marks}, np.arange(300) % 9, margin=0.1) == ([], 0)


def test_a_group_that_lost_is_named_and_others_are_not() -> None:
    rng = np.random.default_rng(3)
    labels = [f"l{i}" for i in rng.integers(0, 20, 2000)]
    lengths = [("short", "long")[i] for i in rng.integers(0, 2, 2000)]
    difference = rng.choice([-1.0, 0.0, 1.0], 2000, p=[0.02, 0.96, 0.02])
    hurt = np.array([label == "l7" for label in labels])
    difference[hurt] = np.where(rng.random(hurt.sum()) < 0.4, -1.0, 0.0)
    lost, tested = surely_lost(difference, {"label": labels, "length": lengths}, margin=0.1)
    assert tested == 22
    assert [(loss.column, loss.name) for loss in lost] == [("label", "l7")]
    assert lost[0].difference.high < -0.1
    assert lost[0].difference.mean == pytest.approx(difference[hurt].mean())
    assert surely_lost(difference, {"label": labels}, margin=0.6)[0] == []


@pytest.mark.parametrize("grouped", [False, True])
def test_no_group_is_named_more_often_than_stated(grouped: bool) -> None:
    """77 groups of 40 yes-or-no items, no effect, and a margin of almost nothing: at most 5 % of families."""
    rng = np.random.default_rng(4)
    marks = [f"l{i}" for i in np.repeat(np.arange(77), 40)]
    clusters = np.repeat(np.arange(77 * 20), 2) if grouped else None
    wrong = 0
    for _ in range(250):
        difference = rng.choice([-1.0, 0.0, 1.0], 77 * 20 if grouped else 77 * 40, p=[0.05, 0.9, 0.05])
        difference = np.repeat(difference, 2) if grouped else difference
        wrong += bool(surely_lost(difference, {"label": marks}, clusters, margin=1e-9)[0])
    assert wrong <= 20, f"{wrong} of 250; 12.5 are allowed on average"


def test_lengths_are_parted_evenly_and_ties_stay_together() -> None:
    rng = np.random.default_rng(5)
    texts = ["x" * int(n) for n in rng.integers(1, 120, 800)]
    groups = length_groups(texts)
    names = sorted(set(groups))
    assert len(names) == 4
    assert all(150 <= groups.count(name) <= 250 for name in names)
    bounds = [(int(name.split()[0]), int(name.split()[2])) for name in names]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(bounds))
    low_high = dict(zip(names, bounds, strict=True))
    assert all(low_high[name][0] <= len(text) <= low_high[name][1] for name, text in zip(groups, texts, strict=True))
    assert set(length_groups(["same"] * 9)) == {"4 to 4 characters"}
    assert length_groups([]) == []


def test_what_cannot_be_grouped_is_refused() -> None:
    for scores, marks in (([], []), ([1.0], ["a", "b"]), ([np.nan], ["a"])):
        with pytest.raises(VectorsRefused, match="one finite score"):
            subgroups(scores, marks)
    with pytest.raises(VectorsRefused, match="one mark"):
        subgroups([1.0, 2.0], ["a", "a"], [1])
