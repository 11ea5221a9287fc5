"""Map and neighbourhoods: against plain references, with movement that is known."""

import numpy as np
import pytest

from training.data import GateItems
from training.report.embedding_map import MAX_GROUPS, MAX_PAIRS, map_labels, map_pairs
from training.report.neighbourhoods import neighbourhood_changes


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def labelled(rows: int = 200, classes: int = 9, seed: int = 1) -> tuple[GateItems, np.ndarray, np.ndarray]:
    """Items whose first half is the index, base vectors, and the labels' codes."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, classes, rows)
    centres = rng.normal(size=(classes, 32))
    base = unit(0.6 * centres[codes] + rng.normal(size=(rows, 32)))
    names = [f"label {code}" for code in codes]
    half = rows // 2
    numbers = np.arange(rows)
    items = GateItems(numbers[:half], numbers[half:], names[:half], names[half:], [], np.arange(rows - half))
    return items, base, codes


def pairs(count: int = 100, seed: int = 2) -> tuple[GateItems, np.ndarray]:
    rng = np.random.default_rng(seed)
    questions = unit(rng.normal(size=(count, 32)))
    answers = unit(questions + 0.9 * unit(rng.normal(size=(count, 32))))
    numbers = np.arange(count)
    relevant = [{int(n)} for n in numbers]
    return GateItems(numbers + count, numbers, [], [], relevant, numbers), np.concatenate([questions, answers])


def test_an_unchanged_model_stays_where_it_is() -> None:
    items, base, _ = labelled()
    found = neighbourhood_changes(items, base, base)
    assert (found.overlap.mean, found.mended, found.broken) == (1.0, 0, 0)
    assert found.kept == (*([0] * 10), found.items)
    assert found.right["base"] == found.right["candidate"]
    placed = map_labels(items, base, base, [])
    assert placed is not None
    assert np.array_equal(placed.base, placed.candidate)
    assert placed.explained[0] == pytest.approx(placed.explained[1])


def test_changes_against_a_plain_reference() -> None:
    items, base, codes = labelled()
    centres = np.stack([base[codes == code].mean(axis=0) for code in range(9)])
    candidate = unit(base + 0.8 * unit(centres)[codes])
    found = neighbourhood_changes(items, base, candidate)

    def ten(vectors: np.ndarray) -> list[list[int]]:
        cosines = vectors[items.queries] @ vectors[items.index].T
        return [np.argsort(-row, kind="stable")[:10].tolist() for row in cosines]

    before, after = ten(base), ten(candidate)
    kept = [len(set(a) & set(b)) for a, b in zip(before, after, strict=True)]
    assert found.overlap.mean == pytest.approx(np.mean(kept) / 10)
    assert found.kept == tuple(np.bincount(kept, minlength=11))
    truth = codes[items.queries]
    first = [np.array([codes[items.index[rows[0]]] for rows in ranked]) == truth for ranked in (before, after)]
    assert found.mended == int((~first[0] & first[1]).sum()) > 0
    assert found.broken == int((first[0] & ~first[1]).sum())
    sizes = np.bincount(codes[items.index], minlength=9)
    # Where a label has fewer rows than neighbours are asked for, all of them are the whole.
    shares = [
        np.sum(codes[items.index[rows]] == label) / min(10, sizes[label])
        for rows, label in zip(after, truth, strict=True)
    ]
    assert found.right["candidate"] == pytest.approx(np.mean(shares))
    for change in found.examples["mended"]:
        assert codes[change.before] != codes[change.query] == codes[change.after]
    gains = [abs(change.gain) for change in found.examples["mended"]]
    assert gains == sorted(gains, reverse=True)


def test_pairs_count_answers() -> None:
    items, base = pairs()
    found = neighbourhood_changes(items, base, base)
    cosines = base[items.queries] @ base[items.index].T
    ten = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
    assert found.right["base"] == pytest.approx(np.mean([n in row for n, row in enumerate(ten)]))
    placed = map_pairs(items, base, base)
    assert placed is not None
    assert len(placed.links) == MAX_PAIRS
    assert placed.names == ()


def test_few_rows_to_find() -> None:
    items, base, _ = labelled(rows=12, classes=2)
    found = neighbourhood_changes(items, base, base)
    assert found.k == 6
    assert found.overlap.mean == 1.0


def test_one_plane_serves_both_models() -> None:
    items, base, _ = labelled(rows=400)
    rotated = unit(base + 0.3 * np.roll(base, 1, axis=1))
    shifted = unit(rotated + 0.05)
    placed = map_labels(items, base, shifted, [])
    assert placed is not None
    shown = np.flatnonzero(placed.marks >= 0)
    rows = items.queries[shown]
    # The difference of two rows in the picture is that of their vectors, seen along the same two directions.
    real = np.concatenate([base[rows], shifted[rows]]).astype(np.float64)
    flat = np.concatenate([placed.base[shown], placed.candidate[shown]])
    axes, *_ = np.linalg.lstsq(real - real.mean(axis=0), flat - flat.mean(axis=0), rcond=None)
    assert np.allclose((real - real.mean(axis=0)) @ axes, flat - flat.mean(axis=0), atol=1e-6)
    assert np.allclose(axes.T @ axes, np.eye(2), atol=1e-6)
    assert len(placed.names) == MAX_GROUPS
    assert all(0 < share < 1 for share in placed.explained)


def test_labels_that_are_confused_stand_out_first() -> None:
    items, base, _ = labelled()
    placed = map_labels(items, base, base, ["label 7", "not judged", "label 2", "label 7"])
    assert placed is not None
    assert placed.names[:2] == ("label 7", "label 2")
    assert (placed.marks == 0).sum() == items.query_labels.count("label 7")


def test_too_few_rows_are_no_map() -> None:
    items, base, _ = labelled(rows=4, classes=2)
    assert map_labels(items, base, base, []) is None
    single, vectors = pairs(count=1)
    assert map_pairs(single, vectors, vectors) is None
