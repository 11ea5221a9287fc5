"""Near-duplicates and splits: clusters stay whole, labels are spread, and nothing grows without bound."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.near import near_duplicate_groups, near_duplicates
from registry.row import Row
from registry.rows import parse
from registry.splits import shares_of, split, split_with


def _together(groups: np.ndarray, *members: int) -> bool:
    return len({int(groups[member]) for member in members}) == 1


def test_near_duplicates_are_what_a_reader_would_call_so() -> None:
    texts = [
        "My card has still not arrived, what can I do about it?",  # 0
        "my card has STILL not arrived - what can i do about it",  # 0
        "My card has still not arrived, what can I do about this?",  # 0
        "My card has been stolen, what can I do about it?",  # 3
        "Where can I change my PIN?",  # 4
        "Where can I change the PIN?",  # other words: kept apart
        "?!",
        "...",
        "我的卡还没有到",
        "我的卡还没有到!",
        "",
    ]
    groups = near_duplicate_groups(texts)
    assert groups.dtype == np.int64
    assert _together(groups, 0, 1, 2)
    assert _together(groups, 8, 9)
    assert len(set(groups.tolist())) == len(texts) - 3
    assert groups[0] == 0
    assert near_duplicate_groups([]).shape == (0,)


def test_a_chain_of_small_changes_does_not_tie_everything_together() -> None:
    # Each text resembles the next; the first and the last share not a word.
    words = [f"word{number:03d}" for number in range(420)]
    chain = [" ".join(words[at : at + 20]) for at in range(400)]
    whole = near_duplicates(chain, largest=10_000)
    assert np.bincount(whole.groups).max() == 400
    parted = near_duplicates(chain, largest=20)
    sizes = np.bincount(parted.groups)
    assert sizes.max() <= 20
    # Parted where it must be, and no further.
    assert np.median(sizes) >= 5
    rows = [Row(text, "ab"[at % 2]) for at, text in enumerate(chain)]
    splits = split(rows)
    assert min(len(splits.fit), len(splits.select), len(splits.gate)) > 30


def test_boilerplate_costs_no_quadratic_time() -> None:
    texts = [f"Please reset the password of account number {at}, it is urgent" for at in range(4_000)]
    began = time.process_time()
    near = near_duplicates(texts)
    assert time.process_time() - began < 10
    assert np.bincount(near.groups).max() <= 40


def test_banking77_is_grouped_in_seconds_and_split_by_label(shared_data: Path) -> None:
    parsed = parse((shared_data / "banking77" / "train.csv").read_bytes(), "csv")
    rows = parsed.rows
    began = time.process_time()
    groups = near_duplicate_groups([row.subject for row in rows])
    assert time.process_time() - began < 5
    assert np.bincount(groups).max() < 20
    splits = split_with(rows, groups)
    sizes = np.array([len(splits.fit), len(splits.select), len(splits.gate)])
    assert sizes.sum() == len(rows) == 10_003
    assert np.abs(sizes / len(rows) - [0.80, 0.10, 0.10]).max() < 0.01
    for part in (splits.fit, splits.select, splits.gate):
        assert {rows[at].label for at in part} == {row.label for row in rows}
    places = splits.places(len(rows))
    assert all(len(set(places[groups == group])) == 1 for group in np.flatnonzero(np.bincount(groups) > 1))
    assert parsed.report["splits"]["near_duplicates_between"]["count"] == 0
    assert parsed.report["conflicts"]["count"] == 1


_TEXTS = [f"a quite different sentence about topic {name}" for name in ("ships", "law", "tea", "rain", "dogs", "art")]
_rows = st.lists(
    st.builds(
        lambda text, bang, label, group: Row(text + bang, label, group),
        st.sampled_from(_TEXTS) | st.text("abcdefgh ", min_size=1, max_size=20),
        st.sampled_from(["", "!", " ?"]),
        st.sampled_from(["one", "two", "three", None]),
        st.sampled_from([None, None, None, "g1", "g2"]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(_rows, st.integers(0, 5))
def test_every_split_is_a_partition_that_parts_no_cluster(rows: list[Row], seed: int) -> None:
    splits = split(rows, seed=seed)
    parts = (splits.fit, splits.select, splits.gate)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(rows)))
    assert all(part.dtype == np.int64 and np.array_equal(part, np.sort(part)) for part in parts)
    again = split(rows, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, (again.fit, again.select, again.gate), strict=True))
    places = splits.places(len(rows))
    near = near_duplicate_groups([row.subject for row in rows])
    for group in set(near.tolist()):
        assert len(set(places[near == group])) == 1
    for name in ("g1", "g2"):
        assert len({places[at] for at, row in enumerate(rows) if row.group == name}) <= 1
    assert len(splits.fit)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 3))
def test_a_label_with_three_clusters_is_in_every_part(counts: list[int], seed: int) -> None:
    rows = [
        Row(f"{label} {at} {hash((label, at))}", f"label {label}") for label, n in enumerate(counts) for at in range(n)
    ]
    places = split_with(rows, np.arange(len(rows), dtype=np.int64), seed=seed).places(len(rows))
    for label, count in enumerate(counts):
        found = {int(places[at]) for at, row in enumerate(rows) if row.label == f"label {label}"}
        assert found == {1: {0}, 2: {0, 2}}.get(count, {0, 1, 2})


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.0), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_shares_that_make_no_sense_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError):
        split([Row("a", "b")], shares=shares)


@pytest.mark.parametrize(("rows", "held_out"), [(1, 0.15), (600, 0.15), (10_000, 0.10), (20_000, 0.05), (10**6, 0.05)])
def test_a_larger_set_holds_out_a_smaller_share(rows: int, held_out: float) -> None:
    assert shares_of(rows) == pytest.approx((1 - 2 * held_out, held_out, held_out))


def _labelled(count: int, labels: int, seed: int = 0) -> list[Row]:
    words = np.random.default_rng(seed).integers(0, 26, (count, 5, 6)) + ord("a")
    texts = [" ".join("".join(map(chr, word)) for word in text) for text in words]
    return [Row(text, f"label {at % labels}") for at, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("first", "added", "labels"), [(1000, 50, 20), (1000, 1000, 20), (672, 40, 24), (6000, 6000, 3)]
)
def test_a_row_keeps_its_part_when_the_dataset_grows(first: int, added: int, labels: int) -> None:
    moved = held = 0
    for seed in range(5):
        rows = _labelled(first + added, labels, seed)
        before, after = split(rows[:first], seed=seed), split(rows, seed=seed)
        moved += len(np.intersect1d(before.fit, after.gate))
        held += len(before.gate)
    # A shuffle would move 70 %.
    assert moved <= 0.04 * held


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_rows_and_the_rows_of_other_labels_play_no_part(seed: int) -> None:
    rows = _labelled(120, 4, seed)
    shares = (0.7, 0.15, 0.15)
    places = split(rows, seed=seed, shares=shares).places(len(rows))
    order = np.random.default_rng(seed).permutation(len(rows))
    again = split([rows[at] for at in order], seed=seed, shares=shares).places(len(rows))
    assert np.array_equal(places[order], again)
    one = [at for at, row in enumerate(rows) if row.label == "label 1"]
    alone = split([rows[at] for at in one], seed=seed, shares=shares).places(len(one))
    assert np.array_equal(places[one], alone)


def test_small_labels_have_about_their_share_of_the_gate() -> None:
    for seed in range(5):
        rows = _labelled(24 * 28, 24, seed)
        splits = split(rows, seed=seed)
        for part in (splits.select, splits.gate):
            found = np.bincount([int((rows[at].label or "").split()[1]) for at in part], minlength=24)
            assert found.min() >= 3
            assert found.max() <= 6
            assert 84 <= len(part) <= 118  # 15 % are 101


def test_a_big_group_does_not_fill_the_gate() -> None:
    rows = [
        Row(row.text, row.label, f"author {at % 7}" if at < 300 else None) for at, row in enumerate(_labelled(600, 2))
    ]
    for seed in range(20):
        splits = split(rows, seed=seed)
        assert 40 <= len(splits.gate) <= 140
        assert len(splits.fit) >= 330
        assert len(set(splits.clusters[:300])) == 7


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 0.9))
def test_doubted_rows_are_never_held_out_and_change_no_share_of_the_others(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), 40)) for _ in range(120)]
    weak = rng.random(120) < share
    rows = [
        Row(text=text, label=f"label {at % 4}", confidence=0.5 if weak[at] else None) for at, text in enumerate(texts)
    ]
    # A doubted row that repeats a sure one but for its case.
    rows += [Row(text=row.subject.upper(), label="label 0", confidence=0.9) for row in rows[:60]]
    doubted = np.array([row.weak for row in rows])
    found = split(rows, seed=seed)
    places = found.places(len(rows))
    assert not doubted[found.select].any()
    assert not doubted[found.gate].any()
    assert (places[~doubted] >= 0).all()
    # Left out is exactly what resembles a row held out.
    held = np.unique(found.clusters[np.concatenate([found.select, found.gate])])
    assert ((places == -1) == (doubted & np.isin(found.clusters, held))).all()
